"""HASFL as a policy: what it decides, refuses and remembers."""

import dataclasses
import math

import numpy as np
import pytest
from hasfl_cases import decided, default_target, drawn_world, hard_case, mean_inverse_batch, observed
from world_cases import numbers, whole

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies import reach
from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.decision import InfeasibleError, check
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.solvers.uniform import best_uniform
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.world import Ends


@pytest.mark.parametrize("cases", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.exhaustive)])
def test_every_decision_is_within_what_there_is(cases):
    """And is expected to take what the world and the bound say, and no longer than what there is, where that may be."""
    decisions, refusals = 0, []
    for case in cases:
        seen, policy = hard_case(case), HASFL(most_batch=32)
        try:
            decision = policy.decide(seen)
        except InfeasibleError as error:
            refusals.append(str(error))
            continue
        check(policy, seen, decision)
        cut, batch = decided(seen, decision)
        assert (batch <= np.minimum(32, seen.samples)).all()
        bound = Bound(
            statistics=seen.statistics,
            learning_rate=seen.learning_rate,
            interval=seen.world.aggregate_every,
            clients=len(seen.clients),
            target=decision.figures["target"],
        )
        cost = seen.world.round(seen.participation(cut, batch), Ends(deepest=int(cut.max())))
        assert decision.figures["step_s"] == pytest.approx(cost.total_s / seen.world.aggregate_every)
        assert decision.figures["expected_steps"] == pytest.approx(bound.steps(batch, int(cut.max())))
        assert decision.figures["expected_s"] == decision.figures["expected_steps"] * decision.figures["step_s"]
        problem = reach.time_to_target(seen, decision.figures["target"], 32)
        assert float(problem.seconds(cut, batch)) == pytest.approx(decision.figures["expected_s"], rel=1e-9)
        uniform = best_uniform(problem, seen.samples)
        assert uniform is None or decision.figures["expected_s"] <= uniform.seconds * (1 + 1e-9)
        now = np.minimum(seen.batch_size, seen.samples)
        if problem.accepts(seen.cut, now):
            assert decision.figures["expected_s"] <= float(problem.seconds(seen.cut, now)) * (1 + 1e-9)
        decisions += 1
    assert all(refusal.startswith("memory_byte=") and "of client" in refusal for refusal in refusals)
    assert decisions > len(cases) / 2


def usual(**given):
    """Four clients, three cuts, both halves of the bound at work."""
    draw = np.random.default_rng(7)
    return observed(drawn_world(draw, 4, 3, works="serial"), draw=draw, **given)


def test_the_same_observation_gives_the_same_decision():
    seen = usual()
    first, second = HASFL().decide(seen), HASFL().decide(usual())
    assert first == second
    assert "cuts move" in first.reason
    assert "instead of" in first.reason


def test_a_weak_client_is_given_less():
    """One of four clients is 100 times as slow: it gets the shallowest cut and the smallest batch."""
    seen = usual()
    fleet = dataclasses.replace(
        seen.world.fleet, flop_per_cycle=numbers(1000, 1000, 10, 1000), clock_hz=np.full(4, 1e9)
    )
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, fleet=fleet))
    cut, batch = decided(seen, HASFL().decide(seen))
    assert batch[2] < np.delete(batch, 2).min()
    assert cut[2] == cut.min()


def test_those_who_take_no_part_keep_what_they_have():
    now = Allocation(cut=["block0", "block1", "block2", "block0"], batch_size=[3, 5, 7, 9])
    seen = usual(clients=whole(0, 3), now=now)
    allocation = HASFL().decide(seen).allocation
    assert allocation.cut[1:3] == ["block1", "block2"]
    assert allocation.batch_size[1:3] == [5, 7]
    check(HASFL(), seen, HASFL().decide(seen))


def test_the_default_target_is_the_least_drift_and_five_times_the_variance():
    """With β = γ = 1 (γ by β = 2000 at 5e-4), N = 2, Σσ² = 8 and batches of 2 and 4: V = 1/4 · 8 · (1/2 + 1/4) = 1.5.

    I = 3 and ΣG² = 1/36 at the first of three cuts: D = 4 · 9 · 1/36 = 1. ε = 1 + 5 · 1.5."""
    draw = np.random.default_rng(0)
    world = dataclasses.replace(drawn_world(draw, 2, 3), aggregate_every=3)
    statistics = GradientStatistics(smoothness=2000.0, variance=8.0, second_moment=numbers(1 / 36, 1, 2), loss_gap=1.0)
    seen = observed(world, statistics=statistics, batch_size=whole(2, 9), samples=whole(100, 4))
    assert default_target(seen) == pytest.approx(8.5)


def test_the_default_target_can_be_reached_where_the_present_batches_cannot_be_held():
    """Everybody has batches of 64 and can hold 2: 5 times the variance of those is less than that of these, which is 32
    times as much, and ε a quarter above it."""
    draw = np.random.default_rng(7)
    world = dataclasses.replace(drawn_world(draw, 3, 2), aggregate_every=1)
    memory = np.full(3, float(world.memory_at(whole(0), whole(2))[0]))
    world = dataclasses.replace(world, fleet=dataclasses.replace(world.fleet, memory_byte=memory))
    seen = observed(world, draw=draw, batch_size=64)
    assert default_target(seen) == pytest.approx(1.25 * reach.bound_at(seen, 1.0).variance(whole(2, 2, 2)))
    check(HASFL(), seen, HASFL().decide(seen))


def test_the_default_target_goes_by_the_gradients_now_and_the_batches_at_first():
    seen = usual()
    first = HASFL().decide(seen)
    assert first.figures["target"] == default_target(seen)
    assert first.memory == {"mean_inverse_batch": mean_inverse_batch(seen)}
    statistics = dataclasses.replace(seen.statistics, variance=100 * seen.statistics.variance)
    later = dataclasses.replace(seen, statistics=statistics)
    halved = dataclasses.replace(later, memory=first.memory, batch_size=np.maximum(seen.batch_size // 2, 1))
    again = HASFL().decide(halved)
    assert again.figures["target"] == default_target(later)
    assert again.figures["target"] > 10 * first.figures["target"]
    assert again.memory == first.memory


@pytest.mark.parametrize(
    ("variance", "second_moment", "named"),
    [
        (1e6, 1e-3, r"variance is .* client 1 adds most: batch_size=3 is all that it can hold"),
        (1e-3, 1e6, r"drift between averages is .* at the cut 'block0'"),
    ],
)
def test_a_target_out_of_reach_names_what_binds(variance, second_moment, named):
    """Client 1 has only three samples; the drift is least at the first cut."""
    draw = np.random.default_rng(7)
    statistics = GradientStatistics(
        smoothness=10.0, variance=variance, second_moment=second_moment * numbers(1, 2, 3), loss_gap=1.0
    )
    world = dataclasses.replace(drawn_world(draw, 4, 3), aggregate_every=15)
    seen = observed(world, statistics=statistics, samples=whole(50, 3, 50, 50))
    with pytest.raises(InfeasibleError, match=named):
        HASFL(target=1e-3).decide(seen)


def test_memory_for_nothing_names_the_client():
    seen = usual()
    fleet = dataclasses.replace(seen.world.fleet, memory_byte=numbers(1e12, 1e12, 7, 1e12))
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, fleet=fleet))
    with pytest.raises(InfeasibleError, match=r"memory_byte=7 of client 2 is too little"):
        HASFL().decide(seen)


@pytest.mark.parametrize("algorithm", ["splitfed_v2", "split_learning", "fedavg", "ho_sfl"])
def test_other_algorithms_are_refused(algorithm):
    seen = usual()
    probes = 5 if algorithm == "ho_sfl" else None
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, algorithm=algorithm, probes=probes))
    with pytest.raises(ValueError, match=rf"algorithm='{algorithm}' is not accepted"):
        HASFL().decide(seen)


def test_a_u_shape_is_refused():
    seen = usual()
    profile = dataclasses.replace(seen.world.profile, returned_bit=seen.world.profile.smashed_bit)
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, profile=profile))
    with pytest.raises(ValueError, match=r"U-shape .* is not accepted"):
        HASFL().decide(seen)


@pytest.mark.parametrize(
    "given", [{"target": 0.0}, {"target": math.inf}, {"target": math.nan}, {"most_batch": 0}, {"most_batch": True}]
)
def test_hyper_parameters_that_are_not_accepted(given):
    field, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=rf"HASFL\({field}={value!r}\) is not accepted"):
        HASFL(**given)
