"""Numbers of the parts stand in `world_cases`: rates are 64 bit/s up and 128 down, the server has 1000 FLOP/s."""

import numpy as np
import pytest
from world_cases import HandChannel, HandFleet, HandServer, SlowingChannel, hand_load, machines, numbers, whole

from lightning_sfl.world.cost.load import RoundLoad
from lightning_sfl.world.cost.round_cost import closing_cost, opening_cost, round_cost
from lightning_sfl.world.cost.rules import RULES, rule_of
from lightning_sfl.world.cost.step_cost import Controls

MEETING = [name for name, rule in RULES.items() if rule.uses_cut]


def make_ends(**given):
    """Upload 10 s and 5 s, broadcast 4 s and 6 s; client 0 gives up layers in 1 s, client 2 is sent some in 2 s; the
    servers exchange 300 bit for client 0 and 100 for client 2, and hand over 200; averaging 0.4 + 0.6 s."""
    fields = {
        "clients": whole(0, 2),
        "update_bit": numbers(640, 320),
        "broadcast_bit": numbers(512, 768),
        "resplit_up_bit": numbers(64, 0),
        "resplit_down_bit": numbers(0, 256),
        "inter_server_bit": numbers(300, 100),
        "handover_bit": 200.0,
        "aggregation_flop": numbers(400, 600),
    }
    return RoundLoad(**{**fields, **given})


NOTHING = numbers(0, 0)
SHARED = rule_of("splitfed_shared")


def test_a_round_begins_with_the_longest_broadcast_and_then_the_longest_move():
    """max(4, 6) + max(1, 2) = 8 s. Client 0 sends 1 s at 2 W; the server 4 + 6 + 2 s at 5 W."""
    found = opening_cost(make_ends(), machines(), SHARED)
    assert found.broadcast_s.tolist() == [4, 6]
    assert found.resplit_s.tolist() == [1, 2]
    assert found.inter_server_s == 0
    assert found.total_s == 8
    assert found.radio_joule.tolist() == [2, 0]
    assert found.server_radio_joule == 60


def test_a_round_ends_with_the_longest_upload_and_averaging():
    """max(10, 5) + 1000/1000 = 11 s; 10 and 5 s at 2 W; 1 s at 10 W."""
    found = closing_cost(make_ends(), machines(), SHARED)
    assert found.upload_s.tolist() == [10, 5]
    assert found.inter_server_s == 0
    assert found.aggregation_s == 1
    assert found.total_s == 11
    assert found.radio_joule.tolist() == [20, 10]
    assert found.server_compute_joule == 10


@pytest.mark.parametrize(("rate", "opens_s", "closes_s"), [(100.0, 8, 11), (60.0, 12, 11), (25.0, 26, 17)])
def test_servers_that_are_two_machines_exchange_layers_meanwhile(rate, opens_s, closes_s):
    """600 bit at the beginning against 6 s of broadcast, 400 at the end against 10 s of upload: at 100 bit/s 6 and 4 s,
    at 60 bit/s 10 and 6.67 s, at 25 bit/s 24 and 16 s. Then 2 s of moving layers, and 1 s of averaging."""
    parts = machines(server=HandServer(inter_server_bit_per_s=rate))
    assert opening_cost(make_ends(), parts, SHARED).total_s == opens_s
    assert closing_cost(make_ends(), parts, SHARED).total_s == closes_s


def test_what_a_client_is_given_counts_for_its_uploads():
    """1 W and 3 W, bandwidths 2 and 1: 64 · 1 · 2 = 128 and 64 · 2 = 128 bit/s up."""
    controls = Controls(power_watt=numbers(1, 3), bandwidth_hz=numbers(2, 1))
    closing = closing_cost(make_ends(), machines(), SHARED, controls)
    assert closing.upload_s.tolist() == [5, 2.5]
    assert closing.radio_joule.tolist() == [5, 7.5]
    opening = opening_cost(make_ends(), machines(), SHARED, controls)
    assert opening.resplit_s.tolist() == [0.5, 2]
    assert opening.radio_joule.tolist() == [0.5, 0]


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "ho_sfl"])
def test_a_round_is_its_beginning_its_steps_and_its_end(algorithm):
    """A step takes 3 + 0.5 + 4 = 7.5 s: 8 + 3 · 7.5 + 11. Client 0: 6 s a step, client 2: 6.5 s.

    Computing 3 J and 192 J a step; radio 4 J and 1 J a step, besides 2 + 20 and 10 J. Server: 5 J a step and 10 J;
    20 J a step and 60 J.
    """
    found = round_cost(hand_load(), make_ends(), machines(), rule_of(algorithm), steps=3)
    assert len(found.steps) == 3
    assert found.total_s == pytest.approx(8 + 22.5 + 11)
    assert found.client_s == pytest.approx([4 + 1 + 18 + 10, 6 + 2 + 19.5 + 5])
    assert found.straggler == 0
    assert found.compute_joule == pytest.approx([9, 576])
    assert found.radio_joule == pytest.approx([12 + 22, 3 + 10])
    assert found.server_compute_joule == pytest.approx(15 + 10)
    assert found.server_radio_joule == pytest.approx(60 + 60)


def test_one_by_one_the_steps_add_up_and_the_ends_do_not():
    """A mini-batch of both takes 6.3 + 6.7 = 13 s: 8 + 3 · 13 + 11."""
    found = round_cost(hand_load(), make_ends(), machines(), rule_of("splitfed_v2"), steps=3)
    assert found.total_s == pytest.approx(8 + 39 + 11)


def test_without_a_cut_a_round_is_the_longest_of_what_each_client_takes():
    """Client 0: 4 + 3 · (1 + 2) + 10 = 23 s; client 2: 6 + 3 · (2 + 1) + 5 = 20 s; then 1 s of averaging. Waiting for
    each other would make it 6 + 9 + 10 + 1."""
    step = hand_load(server_flop=NOTHING, uplink_bit=NOTHING, downlink_bit=NOTHING)
    ends = make_ends(resplit_up_bit=NOTHING, resplit_down_bit=NOTHING, inter_server_bit=NOTHING, handover_bit=0.0)
    found = round_cost(step, ends, machines(), rule_of("fedavg"), steps=3)
    assert found.total_s == 24


def test_without_a_cut_everybody_uploads_when_done():
    """Broadcasts take 4 and 6 s at 0 s. Client 0 uploads from 4 + 9 = 13 s on, 10 · 2.3 s; client 2 from 15 s on,
    5 · 2.5 s. So client 0 is done at 36 s."""
    step = hand_load(server_flop=NOTHING, uplink_bit=NOTHING, downlink_bit=NOTHING)
    ends = make_ends(resplit_up_bit=NOTHING, resplit_down_bit=NOTHING, inter_server_bit=NOTHING, handover_bit=0.0)
    found = round_cost(step, ends, machines(channel=SlowingChannel()), rule_of("fedavg"), steps=3)
    assert found.closing.upload_s == pytest.approx([23, 12.5])
    assert found.total_s == pytest.approx(37)


def test_everything_begins_when_what_was_before_has_ended():
    """From 10 s on, times (1 + t/10): broadcasts 8 and 12 s, until 22 s; moves 3.2 and 6.4 s, until 28.4 s. The step:
    uplinks at 29.4 and 30.4 s, 7.88 and 2.02 s, until 37.28 s, served until 37.78 s; downlinks 4.778 and 14.334 s, done
    at 53.114 s. The next step begins there, with an uplink of 2 · 6.4114 s."""
    channel = SlowingChannel()
    found = round_cost(hand_load(), make_ends(), machines(channel=channel), SHARED, steps=2, start_s=10.0)
    assert found.opening.broadcast_s == pytest.approx([8, 12])
    assert found.opening.resplit_s == pytest.approx([3.2, 6.4])
    assert found.steps[0].uplink_s == pytest.approx([7.88, 2.02])
    assert found.steps[0].downlink_s == pytest.approx([4.778, 14.334])
    assert found.steps[1].uplink_s[0] == pytest.approx(2 * (1 + 5.4114))
    closes_s = 10 + found.opening.total_s + found.steps[0].total_s + found.steps[1].total_s
    assert found.closing.upload_s == pytest.approx(numbers(10, 5) * (1 + closes_s / 10))


@pytest.mark.parametrize("algorithm", RULES)
def test_a_channel_that_says_it_varies_and_does_not_costs_the_same(algorithm):
    rounds = [
        round_cost(
            hand_load(),
            make_ends(),
            machines(channel=HandChannel(varies_within_round=varies)),
            rule_of(algorithm),
            steps=3,
        )
        for varies in (False, True)
    ]
    assert rounds[1].total_s == pytest.approx(rounds[0].total_s)
    assert rounds[1].compute_joule == pytest.approx(rounds[0].compute_joule)
    assert rounds[1].server_radio_joule == pytest.approx(rounds[0].server_radio_joule)


@pytest.mark.parametrize("algorithm", MEETING)
def test_nothing_to_send_takes_nothing_even_without_a_rate(algorithm):
    ends = make_ends(
        update_bit=numbers(0, 320),
        broadcast_bit=numbers(0, 768),
        resplit_up_bit=numbers(0, 0),
        inter_server_bit=NOTHING,
        handover_bit=0.0,
    )
    channel = HandChannel(gain=numbers(0, 1, 1, 1))
    opening = opening_cost(ends, machines(channel=channel), rule_of(algorithm))
    closing = closing_cost(ends, machines(channel=channel), rule_of(algorithm))
    assert opening.client_s.tolist() == [0, 8]
    assert closing.upload_s.tolist() == [0, 5]
    assert opening.radio_joule[0] == closing.radio_joule[0] == 0


def test_energy_that_is_not_modelled_is_not_a_number():
    fleet = HandFleet(transmit_power_watt=numbers(np.nan, 2, 2, 2), watt_per_cubic_hz=numbers(1e-6, 1, np.nan, 1))
    server = HandServer(watt=np.nan, transmit_power_watt=np.nan)
    found = round_cost(hand_load(), make_ends(), machines(fleet=fleet, server=server), SHARED, steps=2)
    assert np.isnan(found.radio_joule).tolist() == [True, False]
    assert np.isnan(found.compute_joule).tolist() == [False, True]
    assert np.isnan(found.server_compute_joule)
    assert np.isnan(found.server_radio_joule)
    assert np.isfinite(found.total_s)
