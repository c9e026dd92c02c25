"""A policy simulated in a world without training."""

import dataclasses

import drawn_worlds
import numpy as np
import pytest

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.fixed import Fixed
from lightning_sfl.policies.simulation import best_fixed_cut, simulate
from lightning_sfl.random import generator
from lightning_sfl.world.channel.fading import BlockRayleigh
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.world import Ends


def faded(seed=0, **given):
    return drawn_worlds.drawn_world(generator(seed, "simulation"), 3, 4, fading=BlockRayleigh(seed=seed), **given)


class Recorder:
    """Keeps what it sees; moves everybody one cut deeper every time, at half the clock."""

    def __init__(self):
        self.seen = []

    def decide(self, seen):
        self.seen.append(seen)
        times = seen.memory.get("times", 0) + 1
        allocation = seen.allocation(
            cut=np.minimum(seen.cut + 1, 3), clock_hz=seen.world.fleet.clock_hz[seen.clients] / 2
        )
        return Decision(allocation=allocation, figures={"times": float(times)}, memory={"times": times})


def halvable(world):
    fleet = dataclasses.replace(world.fleet, lowest_clock_hz=world.fleet.clock_hz / 4)
    return dataclasses.replace(world, fleet=fleet)


def test_every_round_is_charged_on_the_true_channel_with_what_was_decided():
    """The second round by hand: cut 2 after cut 1, half the clock, the second round's fading, begun when the first
    ended."""
    world = halvable(faded())
    trace = simulate(Recorder(), drawn_worlds.scene(world, resplits=True), 2)
    cost = world.round(
        Participation(
            clients=np.arange(3),
            cut=np.full(3, 2),
            batch_size=np.full(3, 4),
            controls=Controls(clock_hz=world.fleet.clock_hz / 2),
        ),
        Ends(previous_cut=np.full(3, 1), deepest=2, previous_deepest=1),
        round=1,
        start_s=trace.delay_s[0],
    )
    assert trace.delay_s[1] == cost.total_s
    assert (trace.joule[1] == cost.compute_joule + cost.radio_joule).all()
    assert trace.cut.tolist() == [[1] * 3, [2] * 3]


def test_layers_that_move_are_a_stage_of_their_own_only_where_they_are_asked_to_be():
    """From cuts 0, 0 and 2 to 1, 1 and 3: who has most in the old broadcast need not have most to move."""
    world = halvable(faded())
    scene = dataclasses.replace(drawn_worlds.scene(world), cut=np.array([0, 0, 2]))
    without, apart = (simulate(Recorder(), dataclasses.replace(scene, resplits=on), 1) for on in (False, True))
    who = Participation(
        clients=np.arange(3),
        cut=np.array([1, 1, 3]),
        batch_size=np.full(3, 4),
        controls=Controls(clock_hz=world.fleet.clock_hz / 2),
    )
    moved = Ends(previous_cut=scene.cut, deepest=3, previous_deepest=2)
    assert without.delay_s[0] == world.round(who, Ends(deepest=3)).total_s
    assert apart.delay_s[0] == world.round(who, moved).total_s
    assert apart.delay_s[0] != without.delay_s[0]


def test_a_policy_is_given_back_what_passed_since_it_last_decided_and_what_it_remembers():
    policy = Recorder()
    trace = simulate(policy, drawn_worlds.scene(halvable(faded())), 5, every=2)
    assert [seen.round for seen in policy.seen] == [0, 2, 4]
    assert [seen.rounds for seen in policy.seen] == [2, 2, 1]
    assert [[passed.round for passed in seen.passed] for seen in policy.seen] == [[], [0, 1], [2, 3]]
    assert [passed.delay_s for passed in policy.seen[1].passed] == trace.delay_s[:2].tolist()
    assert (policy.seen[1].passed[1].joule == trace.joule[1]).all()
    assert [figures["times"] for figures in trace.figures] == [1, 2, 3]
    assert policy.seen[1].cut.tolist() == [1, 1, 1]


def test_the_channel_that_is_seen_stands_still_and_is_that_of_the_round():
    policy = Recorder()
    world = halvable(faded())
    simulate(policy, drawn_worlds.scene(world), 2)
    factor = world.channel.fading.factor("uplink", np.arange(3), 1)
    assert policy.seen[1].world.channel.uplink_gain == pytest.approx(world.channel.uplink_gain * factor)
    assert policy.seen[1].world.channel.fading != world.channel.fading


def test_by_statistical_state_information_means_are_seen_and_the_truth_is_charged():
    """What is seen has the mean gains in every round. The decisions are no others, so that neither are the costs."""
    world = halvable(faded())
    by_means, by_instants = Recorder(), Recorder()
    trace = simulate(by_means, drawn_worlds.scene(world), 3, csi="statistical")
    assert all((seen.world.channel.uplink_gain == world.channel.uplink_gain).all() for seen in by_means.seen)
    assert all((seen.world.channel.downlink_gain == world.channel.downlink_gain).all() for seen in by_means.seen)
    assert (trace.delay_s == simulate(by_instants, drawn_worlds.scene(world), 3).delay_s).all()
    assert (by_instants.seen[1].world.channel.uplink_gain != world.channel.uplink_gain).all()
    with pytest.raises(ValueError, match="csi='mean' is not accepted: give one of 'instantaneous', 'statistical'"):
        simulate(Recorder(), drawn_worlds.scene(world), 1, csi="mean")


def test_in_split_learning_a_round_is_a_turn():
    world = dataclasses.replace(faded(), algorithm="split_learning")
    trace = simulate(Fixed(cut="layer1"), drawn_worlds.scene(world), 4)
    assert ((trace.joule > 0).sum(axis=1) == 1).all()
    assert (trace.joule.argmax(axis=1) == [0, 1, 2, 0]).all()


def test_what_is_not_accepted_ends_the_simulation():
    class TooFast:
        def decide(self, seen):
            return Decision(allocation=seen.allocation(clock_hz=np.full(3, 9e9)))

    with pytest.raises(ValueError, match="TooFast decided clock_hz"):
        simulate(TooFast(), drawn_worlds.scene(faded()), 1)


def test_fixed_keeps_what_there_is_or_sets_it_for_everybody():
    seen = drawn_worlds.observation(faded(), samples=np.array([2, 7, 9]))
    kept = Fixed().decide(seen).allocation
    assert kept.cut is None
    assert kept.batch_size is None
    given = Fixed(cut="layer2", batch_size=7).decide(seen).allocation
    assert given.cut == ["layer2"] * 3
    assert given.batch_size == [2, 7, 7]
    with pytest.raises(ValueError, match="layer9"):
        Fixed(cut="layer9").decide(seen)
    with pytest.raises(ValueError, match=r"Fixed\(batch_size=0\)"):
        Fixed(batch_size=0)


def test_the_best_fixed_cut_is_the_best_of_all_that_there_are():
    scene = drawn_worlds.scene(faded(), resplits=True)
    best, trace = best_fixed_cut(lambda cut: Fixed(cut=cut), scene, 3, lambda trace: trace.delay_s.sum())
    for place in range(4):
        there = dataclasses.replace(scene, cut=np.full(3, place))
        total_s = simulate(Fixed(), there, 3).delay_s.sum()
        assert trace.delay_s.sum() <= total_s
        assert (best == f"layer{place}") == (trace.delay_s.sum() == total_s)
