"""Numbers of the parts stand in `world_cases`."""

import dataclasses

import numpy as np
import pytest
from world_cases import HandFleet, hand_profile, numbers, who, whole, world

from lightning_sfl.world.cost.rules import RULES
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.world import Ends


def test_a_step_of_two_clients():
    """Client 0 at a, 2 samples, 100 FLOP/s: 0.2 s; 656/64 = 10.25 s; server 0.56 s; 512/128 = 4 s; 0.2 s. Client 1 at
    b, 1 sample, 200 FLOP/s: 0.2 s; 208/64 = 3.25 s; 0.19 s; 1 s; 0.35 s.

    Together 10.45 + 0.75 + 4.2 s."""
    found = world().step(who())
    assert found.total_s == pytest.approx(15.4)
    assert found.straggler == 0


@pytest.mark.parametrize("algorithm", RULES)
def test_a_round_is_made_of_what_it_is_asked_for_by_itself(algorithm):
    """Beginning, steps and end asked for one by one are those of the round."""
    asked = world(algorithm, aggregate_every=3)
    given = who((1,), (1,), (2,))
    found = asked.round(given, round=4)
    assert len(found.steps) == 3
    opening, step, closing = asked.opening(given, round=4), asked.step(given, round=4), asked.closing(given, round=4)
    assert found.total_s == pytest.approx(opening.total_s + 3 * step.total_s + closing.total_s)


def test_a_round_of_a_relay_is_one_clients_turn():
    with pytest.raises(ValueError, match=r"clients=array\(\[0, 1\]\).*split_learning is one client's turn"):
        world("split_learning").round(who())


def test_operations_can_be_counted_as_multiply_accumulates():
    """Half the FLOP: half the seconds of computing, on clients, server and for averaging; sending as before."""
    as_flop, as_mac = world(), world(flop_per_mac=1)
    one, other = as_flop.round(who()), as_mac.round(who())
    for stage, share in {"forward_s": 2, "uplink_s": 1, "server_s": 2, "downlink_s": 1, "backward_s": 2}.items():
        assert getattr(one.steps[0], stage) == pytest.approx(share * getattr(other.steps[0], stage))
    assert one.closing.aggregation_s == 2 * other.closing.aggregation_s


def test_the_ends_of_a_round_depend_on_what_it_is_told():
    ends = Ends(optimizer_state=False, first=True, previous_cut=whole(1, 1), deepest=2, previous_deepest=1)
    load = world().round_load(who(), ends)
    assert load.update_bit.tolist() == [3200, 12800]
    assert load.resplit_up_bit.tolist() == [9600, 0]
    assert load.inter_server_bit.tolist() == [25600, 16000]
    assert load.handover_bit == 16000
    assert world().round_load(who(), Ends(first=True)).broadcast_bit.tolist() == [3200, 12800]


def test_bits_and_controls_reach_the_costs():
    """Client 0: 2 · 8 · 4 + 64 + 144 = 272 bit, client 1: 4 · 8 + 64 + 80 = 176 bit, at 1 W and 1 Hz: 64 bit/s."""
    controls = Controls(power_watt=numbers(1, 1), clock_hz=numbers(50, 50), bandwidth_hz=numbers(1, 1))
    found = world().round(who(bits=numbers(4, 8), controls=controls))
    assert found.steps[0].uplink_s.tolist() == [272 / 64, 176 / 64]
    assert found.steps[0].forward_s.tolist() == [0.4, 0.8]
    assert found.closing.radio_joule.tolist() == found.closing.upload_s.tolist()


# Memory


def test_cuts_within_a_clients_memory():
    """Batches of 10 at 100, 400, 900 parameters: 8 · 100 + 10 · 10 = 900, 3200 + 300 = 3500, 7200 + 1000 = 8200 byte;
    of 1: 810, 3230, 7300."""
    asked = world(fleet=HandFleet(memory_byte=numbers(1e9, 3500, 3499, 810)))
    clients, sizes = whole(0, 1, 2, 3), whole(10, 10, 10, 1)
    assert asked.memory_byte(sizes).tolist() == [[900, 3500, 8200]] * 3 + [[810, 3230, 7300]]
    assert asked.feasible(clients, sizes).tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, False],
        [True, False, False],
    ]


def test_memory_of_clients_that_only_run_forward_and_of_those_that_train_all():
    """4 byte per parameter and 5 per sample; 8000 and 120 per sample at whatever cut.

    Zeroth-order clients probe with smashed data, cut gradient and optimizer state in hand: 10 times twice 8, 4 and 2
    elements of 4 byte, and 4 byte per parameter of state and of moved weights. At the first cut more is held
    when scalars are made: 400 of weights, 10 of the batch, 400 of state, 1280 of what is compared. Nothing trained,
    nothing probed."""
    forward = [450, 1650, 3650]
    held = [640 + 2 * 400, 320 + 2 * 1600, 160 + 2 * 3600]
    probing = [one + more for one, more in zip(forward, held, strict=True)]
    assert probing[0] < 2090
    assert world("ho_sfl").memory_byte(whole(10)).tolist() == [[2090, *probing[1:]]]
    frozen = dataclasses.replace(hand_profile(), cut_gradient_bit=np.zeros((3, 2)))
    assert world("ho_sfl", profile=frozen).memory_byte(whole(10)).tolist() == [forward]
    assert world("fedavg").memory_byte(whole(10)).tolist() == [[9200, 9200, 9200]]


def test_a_memory_that_no_cut_satisfies_names_the_client_and_the_smallest_cut():
    asked = world(fleet=HandFleet(memory_byte=numbers(1e9, 1e9, 800, 1e9)))
    with pytest.raises(ValueError, match=r"memory_byte=800 of client 2 .* batch_size=10 takes 900 .*'a',.* Accepted"):
        asked.feasible(whole(0, 2), whole(10, 10))
    with pytest.raises(ValueError, match=r"memory_byte=800 of client 2 .*: fedavg .* 9200 "):
        dataclasses.replace(asked, algorithm="fedavg").feasible(whole(0, 2), whole(10, 10))


# Refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "sfl"}, r"algorithm='sfl'.*splitfed_v1"),
        ({"aggregate_every": 0}, r"aggregate_every=0.*at least 1"),
        ({"flop_per_mac": 3}, r"flop_per_mac=3.*1 or 2"),
        ({"algorithm": "ho_sfl", "probes": None}, r"probes=None: ho_sfl needs"),
        ({"probes": 3}, r"probes=3: splitfed_shared has no probes"),
    ],
)
def test_a_world_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        world(**given)


def test_a_fleet_or_a_channel_smaller_than_the_clients_is_refused():
    world().check(4)
    with pytest.raises(ValueError, match=r"fleet of 4 for 5"):
        world().check(5)
    with pytest.raises(ValueError, match=r"channel of 4 for 5"):
        world(fleet=HandFleet(clock_hz=np.ones(5))).check(5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": (0, 4)}, r"clients=4 of client 4 .*4 devices"),
        ({"clients": (-1, 0)}, r"clients=-1 of client -1 .*4 devices"),
        ({"cut": (0, 3)}, r"cut=3 of client 1 .*3 cuts"),
        ({"cut": (-1, 0)}, r"cut=-1 of client 0 .*3 cuts"),
        ({"controls": Controls(power_watt=numbers(1, 2.5))}, r"power_watt=2.5 of client 1 .*at most its device's"),
        ({"controls": Controls(power_watt=numbers(0, 1))}, r"power_watt=0.0 of client 0 .*above 0"),
        ({"controls": Controls(bandwidth_hz=numbers(1, -1))}, r"bandwidth_hz=-1.0 of client 1 .*above 0 and finite"),
        ({"controls": Controls(bandwidth_hz=numbers(1, np.inf))}, r"bandwidth_hz=inf of client 1 "),
    ],
)
def test_what_there_is_not_is_refused_with_the_client(given, message):
    for ask in (world().step, world().round):
        with pytest.raises(ValueError, match=message):
            ask(who(**given))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (Ends(previous_cut=whole(0)), r"previous_cut has the shape \(1,\) for 2 clients"),
        (Ends(previous_cut=whole(0, 3)), r"previous_cut=3 of client 1 .*3 cuts"),
        (Ends(deepest=3), r"deepest=3 .*3 cuts"),
        (Ends(previous_deepest=-1), r"previous_deepest=-1 .*3 cuts"),
        (Ends(deepest=0), r"deepest=0 .*a client cuts at 1"),
    ],
)
def test_ends_that_cannot_be_are_refused(ends, message):
    for ask in (world().opening, world().round):
        with pytest.raises(ValueError, match=message):
            ask(who(), ends)


def test_any_power_is_accepted_of_a_device_whose_highest_is_not_known():
    fleet = HandFleet(transmit_power_watt=np.full(4, np.nan))
    found = world(fleet=fleet).step(who(controls=Controls(power_watt=numbers(1, 3))))
    assert np.isfinite(found.radio_joule).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": ()}, r"at least one"),
        ({"clients": (1, 1)}, r"nobody takes part twice"),
        ({"cut": (0, 1, 2)}, r"cut has the shape \(3,\) for 2 clients"),
        ({"batch_size": (1,)}, r"batch_size has the shape \(1,\)"),
        ({"controls": Controls(clock_hz=numbers(1))}, r"clock_hz has the shape \(1,\)"),
        ({"batch_size": (1, 0)}, r"batch_size=0 of client 1 .*at least 1"),
        ({"bits": numbers(0, 8)}, r"bits=0.0 of client 0 .*an integer from 1 to 16, or 32"),
        ({"bits": numbers(8, 17)}, r"bits=17.0 of client 1 "),
        ({"bits": numbers(8.5, 8)}, r"bits=8.5 of client 0 "),
    ],
)
def test_a_participation_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        who(**given)
