"""Numbers of the parts stand in `world_cases`."""

import re

import numpy as np
import pytest
from world_cases import HandChannel, HandFleet, SlowingChannel, who, whole, world

from lightning_sfl.algorithms import ALGORITHMS
from lightning_sfl.cli.plan import gantt_of_round
from lightning_sfl.cli.plan_fleet import FleetPlan
from lightning_sfl.schedule import ParallelSchedule
from lightning_sfl.world.world import Ends


def fleet_plan(algorithm="splitfed_shared", clients=4, per_round=None, batch_size=1, sends_state=True, **given):
    schedule = ALGORITHMS[algorithm].schedule(
        num_clients=clients,
        clients_per_round=per_round or clients,
        steps_per_round=given.get("aggregate_every", 1),
        seed=0,
    )
    sizes = np.full(clients, batch_size)
    return FleetPlan(world=world(algorithm, **given), schedule=schedule, batch_size=sizes, sends_state=sends_state)


def many(clients, slowest):
    """That many devices of 100 FLOP/s, one of which has 10."""
    clock_hz = np.full(clients, 100.0)
    clock_hz[slowest] = 10.0
    fleet = HandFleet(
        clock_hz=clock_hz,
        watt_per_cubic_hz=np.full(clients, 1e-6),
        transmit_power_watt=np.full(clients, 2.0),
        memory_byte=np.full(clients, np.inf),
    )
    return {"fleet": fleet, "channel": HandChannel(gain=np.ones(clients))}


def test_what_four_clients_cost_at_a_cut():
    """Cut a, one sample: 10 FLOP there and 10 back at 100, 200, 400 and 50 FLOP/s, 336 bit up at 64 bit/s are 5.25 s,
    256 bit down at 128 bit/s 2 s: 7.45, 7.35, 7.3 and 7.65 s, the median 7.4 s. Computing takes 1, 8, 64 and 0.125 W
    for 0.2, 0.1, 0.05 and 0.4 s: 0.2 + 0.8 + 3.2 + 0.05 J; sending 2 W for 5.25 s: 10.5 J each.

    A round: 6400 bit of weights and state down 50 s, the step 5.45 + 4 · 0.28 + 2.2 s, 6400 bit up 100 s at 200 J
    each, 4 · 200 FLOP of averaging 0.8 s."""
    cost = fleet_plan().costs()[0]

    assert cost.step_s == pytest.approx([7.45, 7.35, 7.3, 7.65])
    assert (cost.median_step_s, cost.slowest_step_s) == pytest.approx((7.4, 7.65))
    assert cost.slowest == 3
    assert cost.step_joule == pytest.approx([10.7, 11.3, 13.7, 10.55])
    assert cost.round_s == pytest.approx(50 + 5.45 + 1.12 + 2.2 + 100 + 0.8)
    assert cost.client_joule == pytest.approx(4.25 + 4 * (10.5 + 200))
    assert cost.uplink_byte == pytest.approx(4 * (336 + 6400) / 8)
    assert cost.downlink_byte == pytest.approx(4 * (256 + 6400) / 8)
    assert cost.memory_byte.tolist() == [810.0] * 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rounds_are_those_of_the_world_one_after_the_other(algorithm):
    """With a channel that slows down, a round costs more the later it begins; who was away catches up if it has to."""
    plan = fleet_plan(algorithm, per_round=2, aggregate_every=3, channel=SlowingChannel())
    begins_s, joule, up, drawn = 0.0, 0.0, 0.0, []
    had = dict.fromkeys(range(4), 0)
    for number in range(20):
        clients = plan.schedule.turn(plan.schedule.steps_per_round * number).participants
        if algorithm == "splitfed_v2":
            clients = plan.schedule.order(number)
        elif isinstance(plan.schedule, ParallelSchedule):
            clients = plan.schedule.participants(number)
        drawn.append(set(clients))
        given = who(clients, [1] * len(clients), [1] * len(clients))
        missed = np.array([3 * number - had[client] for client in clients])
        had |= dict.fromkeys(clients, 3 * number + 3)
        cost = plan.world.round(given, Ends(missed_steps=missed), round=number, start_s=begins_s)
        begins_s += cost.total_s
        joule += float((cost.compute_joule + cost.radio_joule).sum())
        up += sum(step.load.uplink_bit.sum() for step in cost.steps) + cost.closing.load.update_bit.sum()

    found = plan.costs()[1]

    assert plan.rounds == 20
    assert found.round_s == pytest.approx(begins_s / 20)
    assert found.client_joule == pytest.approx(joule / 20)
    assert found.uplink_byte == pytest.approx(up / 20 / 8)
    assert {len(clients) for clients in drawn} == ({1} if algorithm == "split_learning" else {2})


def test_a_relay_is_averaged_over_whole_turns_of_everybody():
    """Of 3 clients, 21 turns: each has had 7, so a round takes the mean of what each one's takes."""
    plan = fleet_plan("split_learning", clients=3)

    alone = [plan.world.round(who((client,), (0,), (1,))).total_s for client in range(3)]
    assert plan.rounds == 21
    assert plan.costs()[0].round_s == pytest.approx(np.mean(alone))


def test_who_was_never_drawn_has_no_step_and_does_not_count_in_the_median():
    """Of 60 clients one per round: 20 at most were drawn, all with the step of 100 FLOP/s, 0.2 + 5.25 + 2 s."""
    cost = fleet_plan(clients=60, per_round=1, **many(60, slowest=0)).costs()[0]

    assert np.isnan(cost.step_s).sum() >= 40
    assert cost.median_step_s == pytest.approx(7.45)


def test_state_that_is_not_sent_costs_nothing():
    with_state, without = fleet_plan().costs()[0], fleet_plan(sends_state=False).costs()[0]

    assert with_state.uplink_byte - without.uplink_byte == 4 * 3200 / 8
    assert with_state.downlink_byte - without.downlink_byte == 4 * 3200 / 8


def test_cuts_that_nothing_beats_are_marked():
    """With one step per round weights are most of what is sent, and a is best in everything. With 1,000 steps smashed
    data are: b and c send less than a in less time, and a takes the least memory."""
    assert [cost.is_pareto for cost in fleet_plan().costs()] == [True, False, False]
    often = fleet_plan(aggregate_every=1_000).costs()
    assert [cost.is_pareto for cost in often] == [True, True, True]
    assert often[0].median_step_s == pytest.approx(7.4)
    assert often[2].uplink_byte < often[1].uplink_byte < often[0].uplink_byte


def test_energy_that_is_not_modelled_does_not_count():
    """Without energy, b and c are still better than a in bytes."""
    costs = fleet_plan(aggregate_every=1_000, fleet=HandFleet(watt_per_cubic_hz=np.full(4, np.nan))).costs()

    assert all(np.isnan(cost.client_joule) for cost in costs)
    assert [cost.is_pareto for cost in costs] == [True, True, True]


def test_a_cut_that_does_not_fit_everybody_is_no_candidate():
    """Client 1 has 1,000 byte; a takes 810, b 3,230, c 7,300 of the others' 5,000."""
    fleet = HandFleet(memory_byte=np.array([5e3, 1e3, 5e3, 5e3]))
    costs = fleet_plan(aggregate_every=1_000, fleet=fleet).costs()

    assert [cost.fits.tolist() for cost in costs] == [[True] * 4, [True, False, True, True], [False] * 4]
    assert [cost.is_pareto for cost in costs] == [True, False, False]
    assert costs[1].round_s > 0


def test_a_client_that_fits_nowhere_is_named_with_the_smallest_cut():
    fleet = HandFleet(memory_byte=np.array([5e3, 5e3, 800.0, 5e3]))

    with pytest.raises(ValueError, match="memory_byte=800 of client 2 .* takes 810 at the cut that takes least, 'a'"):
        fleet_plan(fleet=fleet).costs()


def test_the_chart_of_many_clients_begins_with_the_straggler():
    plan = fleet_plan(clients=30, **many(30, slowest=27))

    rows = re.findall(r"<!-- (client/\d+|server) -->", gantt_of_round(plan, np.zeros(30, dtype=np.int64)))

    assert rows[:20] == ["client/27", *(f"client/{client}" for client in range(19))]
    assert rows[20] == "server"


def test_the_chart_of_few_clients_keeps_their_order():
    rows = re.findall(r"<!-- (client/\d+|server) -->", gantt_of_round(fleet_plan(), whole(0, 1, 2, 0)))

    assert rows[:5] == ["client/0", "client/1", "client/2", "client/3", "server"]


def test_clients_that_are_served_in_turn_are_drawn_in_that_order():
    plan = fleet_plan("splitfed_v2")
    order = [f"client/{client}" for client in plan.schedule.order(0)]

    rows = re.findall(r"<!-- (client/\d+|server) -->", gantt_of_round(plan, whole(0, 1, 2, 0)))

    assert rows[:4] == order != sorted(order)
