"""What the solvers believe, against the world and by hand."""

import dataclasses

import numpy as np
import pytest
from hasfl_cases import drawn_world, observed, wide_problem
from references_hasfl import every_choice
from world_cases import HandChannel, HandFleet, HandServer, numbers, whole, world

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies import reach
from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.world import Ends


def hand_seen(**given):
    """Clients 0 and 1 of `world_cases`; β = 1, γ = 5e-4, Σσ² = 8000, ΣG² = 0, 1, 4 (times 1e6) and ϑ = 1."""
    statistics = GradientStatistics(smoothness=1.0, variance=8000.0, second_moment=numbers(0, 1e6, 4e6), loss_gap=1.0)
    return observed(world(aggregate_every=2, **given), statistics=statistics, clients=whole(0, 1), registered=2)


def test_the_time_to_the_target_by_hand():
    """Client 0 cuts at a with 2 samples, client 1 at b with 1; both halves as in `hand_profile`, I = 2.

    Client 0 (100 FLOP/s): forward 20/100, up (2·256 + 2·64 + 16)/64 = 10.25, down 512/128 = 4, backward 20/100 s.
    Client 1 (200): forward 40/200, up (128 + 64 + 16)/64 = 3.25, down 1, backward 70/200.
    Server (1000): 2·280/1000 + 190/1000 = 0.75. T_S = 10.45 + 0.75 + 4.2 = 15.4.
    Ends, with state as large as the weights: client 0 sends 6400 bit, 100 s, and is sent them in 50 s; client 1, 25600
    bit, 400 s and 200 s. Averaging: 2 · 2 · 400 FLOP, 1.6 s. T_A = 601.6. T_S + T_A/2 = 316.2.
    V = βγ/N² Σσ² (1/2 + 1) = 5e-4/4 · 8000 · 1.5 = 1.5; D = 4 β²γ²I² 1e6 = 4 · 25e-8 · 4 · 1e6 = 4.
    With ε = 6.5 the slack is 1, and it takes 2 · 1 / 5e-4 = 4000 steps.
    """
    problem = reach.time_to_target(hand_seen(), 6.5, 4)
    cut, batch = whole(0, 1), whole(2, 1)
    assert float(problem.step_s(cut, batch)) == pytest.approx(316.2)
    assert float(problem.slack(cut, batch)) == pytest.approx(1.0)
    assert float(problem.seconds(cut, batch)) == pytest.approx(4000 * 316.2)


def test_the_line_between_servers_takes_its_time_by_hand():
    """Client 0's own layers from a to b are 25600 - 6400 bit: at 10 bit/s 1920 s, longer than any upload."""
    seen = hand_seen(server=HandServer(inter_server_bit_per_s=10.0))
    problem = reach.time_to_target(seen, 6.5, 4)
    assert float(problem.step_s(whole(0, 1), whole(2, 1))) == pytest.approx(15.4 + (1920 + 1920 + 1.6) / 2)


def test_the_target_out_of_reach_takes_for_ever():
    problem = reach.time_to_target(hand_seen(), 5.5, 4)
    assert float(problem.seconds(whole(0, 1), whole(2, 1))) == np.inf


@pytest.mark.parametrize("works", ["serial", "parallel"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_what_is_believed_is_what_the_world_says(works, algorithm):
    for case in range(15):
        draw = np.random.default_rng(case)
        clients, cuts = int(draw.integers(1, 6)), int(draw.integers(1, 6))
        at = dataclasses.replace(drawn_world(draw, clients, cuts, works=works), algorithm=algorithm)
        seen = observed(at, draw=draw, round=3)
        problem = reach.time_to_target(seen, 1.0, 16)
        for _ in range(5):
            cut, batch = draw.integers(0, cuts, clients), draw.integers(1, 17, clients)
            cost = at.round(seen.participation(cut, batch), Ends(deepest=int(cut.max())), round=3)
            assert float(problem.step_s(cut, batch)) == pytest.approx(cost.total_s / at.aggregate_every, rel=1e-9)
            bound = Bound(
                statistics=seen.statistics, learning_rate=5e-4, interval=at.aggregate_every, clients=clients, target=1.0
            )
            assert float(problem.slack(cut, batch)) == pytest.approx(bound.slack(batch, int(cut.max())), rel=1e-9)


def test_what_is_believed_with_quantisers_is_less_than_a_byte_per_tensor_off():
    """3 bits of some 100 to 100,000 elements, one tensor each way: 8 bits more or less at 1 Mbit/s take 8 µs."""
    for case in range(10):
        draw = np.random.default_rng(case)
        at = drawn_world(draw, 2, 3, uplink=np.full(2, 1e6), works="serial")
        seen = observed(at, draw=draw, bits=numbers(3, 32))
        problem = reach.time_to_target(seen, 1.0, 64)
        for batch in (whole(1, 2), whole(63, 5), whole(17, 64)):
            cut = draw.integers(0, 3, 2)
            said = at.round(seen.participation(cut, batch), Ends(deepest=int(cut.max()))).total_s / at.aggregate_every
            assert abs(float(problem.step_s(cut, batch)) - said) < 1e-5


def test_those_who_take_no_part_keep_the_deepest_cut_where_it_is():
    draw = np.random.default_rng(0)
    at = drawn_world(draw, 4, 3, works="serial", between_servers=1e7)
    now = Allocation(cut=["block0", "block2", "block0", "block0"], batch_size=[8] * 4)
    seen = observed(at, draw=draw, clients=whole(0, 2, 3), now=now)
    problem = reach.time_to_target(seen, 1.0, 16)
    assert problem.floor == 2
    cut, batch = whole(0, 1, 0), whole(3, 4, 5)
    cost = at.round(seen.participation(cut, batch), Ends(deepest=2))
    assert float(problem.step_s(cut, batch)) == pytest.approx(cost.total_s / at.aggregate_every, rel=1e-9)
    assert problem.deepest(cut) == 2


def test_smaller_problems_say_the_same_as_the_whole():
    for case in range(20):
        draw = np.random.default_rng(case)
        seen = observed(drawn_world(draw, 3, 4), draw=draw)
        problem = dataclasses.replace(wide_problem(seen, 8), floor=case % 2)
        cut, batch = draw.integers(0, 4, 3), draw.integers(1, 9, 3)
        said = float(problem.seconds(cut, batch))
        assert float(problem.with_cuts(cut).seconds(0 * cut, batch)) == pytest.approx(said, rel=1e-12)
        fixed = problem.with_batches(batch)
        assert fixed.accepts(cut, batch)
        assert not fixed.accepts(cut, batch + 1)
        assert float(fixed.seconds(cut, batch)) == said


def test_nothing_comes_nearer_to_the_target_than_the_nearest():
    for case in range(30):
        draw = np.random.default_rng(case)
        seen = observed(drawn_world(draw, 2, 3, memory_byte=10 ** draw.uniform(8, 9, 2)), draw=draw)
        problem = reach.time_to_target(seen, 1.0, 4)
        found = problem.nearest()
        assert problem.accepts(found.cut, found.batch_size)
        most = problem.slack(*every_choice(problem)).max()
        assert float(problem.slack(found.cut, found.batch_size)) == pytest.approx(most, rel=1e-12)


def test_a_client_cut_off_is_named():
    seen = observed(
        world(channel=HandChannel(gain=numbers(1, 0, 1, 1)), fleet=HandFleet()),
        draw=np.random.default_rng(0),
    )
    with pytest.raises(reach.InfeasibleError, match=r"channel of client 1 carries nothing"):
        reach.time_to_target(seen, 1.0, 4)
