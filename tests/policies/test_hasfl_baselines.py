"""What HASFL is judged by: random choices, one part random, and the best that all share."""

import dataclasses

import numpy as np
import pytest
from hasfl_cases import decided, drawn_world, hard_case, observed
from references_hasfl import best_split
from world_cases import numbers, whole

from lightning_sfl.policies import reach
from lightning_sfl.policies.best_uniform import BestUniform
from lightning_sfl.policies.decision import InfeasibleError, check
from lightning_sfl.policies.habs_rms import HabsRms
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.random_allocation import RandomAllocation
from lightning_sfl.policies.rbs_hams import RbsHams
from lightning_sfl.policies.rbs_rhams import RbsRhams
from lightning_sfl.policies.statistics import GradientStatistics

BASELINES = [BestUniform, RandomAllocation, RbsHams, HabsRms, RbsRhams]
DRAWN = [RandomAllocation, RbsHams, HabsRms, RbsRhams]


def usual(**given):
    draw = np.random.default_rng(7)
    return observed(drawn_world(draw, 6, 4, works="serial"), draw=draw, **given)


@pytest.mark.parametrize(
    "policy", [make(most_batch=32) for make in BASELINES], ids=lambda policy: type(policy).__name__
)
@pytest.mark.parametrize("cases", [range(40), pytest.param(range(40, 1000), marks=pytest.mark.exhaustive)])
def test_every_decision_is_within_what_there_is(policy, cases):
    decisions, refusals = 0, []
    for case in cases:
        seen = hard_case(case)
        try:
            decision = policy.decide(seen)
        except InfeasibleError as error:
            refusals.append(str(error))
            continue
        check(policy, seen, decision)
        _, batch = decided(seen, decision)
        assert ((batch >= 1) & (batch <= np.minimum(32, seen.samples))).all()
        decisions += 1
    assert all("client" in refusal or "draws" in refusal for refusal in refusals)
    assert decisions > len(cases) / 2


@pytest.mark.parametrize("make", DRAWN)
def test_draws_follow_seed_and_round_alone(make):
    seen = usual()
    later = dataclasses.replace(seen, round=5)
    first = make(seed=1).decide(seen).allocation
    assert make(seed=1).decide(seen).allocation == first
    assert make(seed=2).decide(seen).allocation != first
    assert make(seed=1).decide(later).allocation != first


def test_a_clients_draw_does_not_depend_on_who_else_takes_part():
    seen = usual()
    fewer = usual(clients=whole(1, 4), now=seen.now)
    everybody, some = (RandomAllocation().decide(each).allocation for each in (seen, fewer))
    for client in (1, 4):
        assert some.cut[client] == everybody.cut[client]
        assert some.batch_size[client] == everybody.batch_size[client]
    assert some.batch_size[0] == 8


def test_random_choices_are_all_that_fit_and_equally_likely():
    """Over 600 rounds of 6 clients, each of 4 cuts comes in 900 times, and batches 1 to 4 likewise; σ = 26."""
    seen = usual()
    cuts, batches = [], []
    for round in range(600):
        cut, batch = decided(seen, RandomAllocation(most_batch=4).decide(dataclasses.replace(seen, round=round)))
        cuts.append(cut)
        batches.append(batch)
    assert np.abs(np.bincount(np.concatenate(cuts), minlength=4) - 900).max() < 4 * 26
    assert np.abs(np.bincount(np.concatenate(batches), minlength=5)[1:] - 900).max() < 4 * 26


def test_what_is_not_drawn_stays():
    seen = usual(cut=whole(0, 1, 2, 3, 0, 1))
    assert RandomAllocation(batch=False).decide(seen).allocation.batch_size is None
    assert RandomAllocation(split=False).decide(seen).allocation.cut is None


def test_where_the_other_leaves_no_choice_the_client_is_named():
    """Client 3 can just hold one sample at the first cut, and has a deeper cut, or a batch of 8."""
    seen = usual(cut=whole(0, 0, 0, 2, 0, 0))
    memory = np.full(6, np.inf)
    memory[3] = seen.world.memory_at(whole(0), whole(1))[0]
    world = dataclasses.replace(seen.world, fleet=dataclasses.replace(seen.world.fleet, memory_byte=memory))
    seen = dataclasses.replace(seen, world=world)
    with pytest.raises(InfeasibleError, match=r"of client 3 is too little for batch_size=8 at any cut"):
        RandomAllocation(batch=False).decide(seen)
    with pytest.raises(InfeasibleError, match=r"of client 3 is too little for batch_size=1 at 'block2'"):
        RandomAllocation(split=False).decide(seen)


def test_random_batches_get_the_best_cuts():
    """Against the mixed-integer program."""
    for round in range(8):
        seen = dataclasses.replace(usual(), round=round)
        decision = RbsHams(most_batch=16).decide(seen)
        cut, batch = decided(seen, decision)
        problem = reach.time_to_target(seen, decision.figures["target"], 16).with_batches(batch)
        exact = best_split(problem, float(problem.seconds(cut, batch)))
        assert decision.figures["expected_s"] <= exact * (1 + 1e-3)


def test_random_batches_get_the_cuts_with_the_shortest_step():
    """Of a bound in which drift forbids all cuts but the first, nothing is seen."""
    seen = usual()
    statistics = dataclasses.replace(seen.statistics, second_moment=numbers(0, 1e9, 1e9, 1e9))
    for round in range(8):
        seen = dataclasses.replace(seen, round=round, statistics=statistics)
        decision = RbsRhams(most_batch=16).decide(seen)
        cut, batch = decided(seen, decision)
        problem = reach.time_to_target(seen, 1.0, 16).by_time_alone().with_batches(batch)
        exact = best_split(problem, float(problem.seconds(cut, batch)))
        assert decision.figures["step_s"] <= exact * (1 + 1e-3)
        assert cut.max() > 0


def test_random_cuts_get_batches_that_beat_any_other_for_them():
    seen = usual()
    decision = HabsRms(most_batch=16).decide(seen)
    cut, batch = decided(seen, decision)
    problem = reach.time_to_target(seen, decision.figures["target"], 16)
    draw = np.random.default_rng(0)
    others = problem.seconds(np.tile(cut, (2000, 1)), np.clip(batch + draw.integers(-3, 4, (2000, 6)), 1, 16))
    assert decision.figures["expected_s"] <= others.min() * (1 + 1e-9)
    assert len(set(cut.tolist())) > 1


def test_nothing_is_expected_to_be_faster_than_hasfl():
    for case in range(10):
        draw = np.random.default_rng(case)
        seen = observed(drawn_world(draw, 6, 4), draw=draw)
        best = HASFL().decide(seen).figures["expected_s"]
        for make in (BestUniform, RbsHams, HabsRms):
            assert make().decide(seen).figures["expected_s"] >= best * (1 - 1e-3)


def test_the_best_that_all_share_uses_all_samples_of_a_client_with_few():
    seen = usual(samples=whole(100, 100, 2, 100, 100, 100))
    seen = dataclasses.replace(seen, world=dataclasses.replace(seen.world, aggregate_every=1))
    target = 1.2 * reach.bound_at(seen, 1.0).variance(whole(8, 8, 2, 8, 8, 8))
    cut, batch = decided(seen, BestUniform(target=target).decide(seen))
    assert len(set(cut.tolist())) == 1
    assert batch[2] == 2
    assert len(set(np.delete(batch, 2).tolist())) == 1
    assert batch[0] > 2


def test_random_cuts_have_a_default_target_that_they_reach():
    """Where all but the first cut drift far beyond what the best choice can reach."""
    seen = usual()
    statistics = dataclasses.replace(seen.statistics, second_moment=numbers(0, 1e9, 2e9, 3e9))
    seen = dataclasses.replace(seen, statistics=statistics)
    decision = HabsRms(most_batch=16, seed=1).decide(seen)
    cut, _ = decided(seen, decision)
    assert cut.max() > 0
    assert decision.figures["target"] > reach.bound_at(seen, 1.0).drift[cut.max()]
    with pytest.raises(InfeasibleError, match="draws of cuts"):
        HabsRms(most_batch=16, seed=1, target=HASFL(most_batch=16).decide(seen).figures["target"]).decide(seen)


def test_where_nothing_shared_reaches_the_target_the_client_is_named():
    """Client 3 can hold a sample, the others much more: together they reach ε = 2 V(64, ..., 64, 1), at b = 1 not."""
    seen = usual()
    memory = np.full(6, np.inf)
    memory[3] = seen.world.memory_at(whole(0), whole(1))[0]
    world = dataclasses.replace(
        seen.world, fleet=dataclasses.replace(seen.world.fleet, memory_byte=memory), aggregate_every=1
    )
    seen = dataclasses.replace(seen, world=world)
    variance = reach.bound_at(seen, 1.0).variance(whole(64, 64, 64, 1, 64, 64))
    HASFL(target=2 * variance).decide(seen)
    with pytest.raises(InfeasibleError, match=r"client 3 can hold batches of 1 at most at the cut 'block0'"):
        BestUniform(target=2 * variance).decide(seen)


@pytest.mark.parametrize(("make", "what"), [(RbsHams, "batch sizes"), (HabsRms, "cuts")])
def test_where_no_draw_reaches_the_target_it_is_said(make, what):
    """Only the largest batches (V = ε/1.001), or only the first cut, reach it: one draw in 64^6, or in 4^6.

    (With seed 0, one of 100 draws happens to.)"""
    seen = dataclasses.replace(usual(), world=dataclasses.replace(usual().world, aggregate_every=15))
    statistics = GradientStatistics(
        smoothness=10.0, variance=1.0, second_moment=numbers(0, 1e9, 1e9, 1e9), loss_gap=1.0
    )
    seen = dataclasses.replace(seen, statistics=statistics)
    variance = reach.bound_at(seen, 1.0).variance(np.full(6, 64))
    with pytest.raises(InfeasibleError, match=rf"out of reach of 100 draws of {what}"):
        make(target=1.001 * variance if make is RbsHams else 100 * variance, seed=1).decide(seen)


@pytest.mark.parametrize("make", DRAWN)
def test_seeds_that_are_not_accepted(make):
    with pytest.raises(ValueError, match=rf"{make.__name__}\(seed=-1\) is not accepted"):
        make(seed=-1)
    with pytest.raises(ValueError, match=rf"{make.__name__}\(most_batch=0\) is not accepted"):
        make(most_batch=0)


def test_drawing_nothing_is_not_accepted():
    with pytest.raises(ValueError, match=r"batch=False, split=False"):
        RandomAllocation(batch=False, split=False)
