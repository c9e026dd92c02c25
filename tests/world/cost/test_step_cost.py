"""Numbers of the parts stand in `world_cases`: rates are 64 bit/s up and 128 down, the server has 1000 FLOP/s."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world_cases import (
    HandChannel,
    HandFleet,
    HandServer,
    SharedChannel,
    SlowingChannel,
    hand_load,
    machines,
    numbers,
    whole,
)

from lightning_sfl.world.cost.load import StepLoad
from lightning_sfl.world.cost.rules import rule_of
from lightning_sfl.world.cost.step_cost import Controls, step_cost, steps_in_turn

PARALLEL = ["splitfed_shared", "splitfed_v1", "ho_sfl"]
ONE_BY_ONE = ["splitfed_v2", "split_learning"]


def cost(algorithm="splitfed_shared", load=None, parts=None, controls=None, **given):
    return step_cost(
        hand_load() if load is None else load, parts or machines(), rule_of(algorithm), controls or Controls(), **given
    )


@pytest.mark.parametrize("algorithm", [*PARALLEL, *ONE_BY_ONE])
def test_stages_of_a_step(algorithm):
    """s1 = 100/100, 800/400; s2 = 128/64, 32/64; s3 = 300/1000, 200/1000; s4 = 128/128, 384/128; s5 = 200/100, 400/400.

    Client 0 burns 1e-6 · 100³ = 1 W for 1 + 2 s, client 2 1e-6 · 400³ = 64 W for 2 + 1 s. They send at 2 W for 2 and
    0.5 s. The server computes 0.5 s at 10 W and sends 1 + 3 s at 5 W.
    """
    found = cost(algorithm)
    assert found.forward_s.tolist() == [1, 2]
    assert found.uplink_s.tolist() == [2, 0.5]
    assert found.server_s.tolist() == [0.3, 0.2]
    assert found.downlink_s.tolist() == [1, 3]
    assert found.backward_s.tolist() == [2, 1]
    assert found.compute_joule == pytest.approx([3, 192])
    assert found.radio_joule.tolist() == [4, 1]
    assert found.server_compute_joule == pytest.approx(5)
    assert found.server_radio_joule == 20


def u_shape():
    """With a turn: down 0.5 s and 1 s, 0.4 s and 0.1 s of computing, up 1 s and 0.25 s, server 0.4 s and 0.1 s."""
    return hand_load(
        turn_down_bit=numbers(64, 128),
        turn_flop=numbers(40, 40),
        turn_up_bit=numbers(64, 16),
        return_flop=numbers(400, 100),
    )


@pytest.mark.parametrize(("works", "seconds"), [("serial", 9.9), ("parallel", 9.6)])
def test_in_a_u_shape_everybody_waits_at_the_second_cut_too(works, seconds):
    """Rates are 64 bit/s up and 128 bit/s down. Besides the 7.5 s (7.3 s) without a turn: max(0.5 + 0.4 + 1, 1 + 0.1 +
    0.25) = 1.9 s, and the server 0.4 + 0.1 s, or 0.4 s. Client 0 computes 0.4 s more at 1 W and sends 1 s more at 2 W;
    client 2 0.1 s at 64 W and 0.25 s; the server computes 0.5 s more at 10 W and sends 0.5 + 1 s more at 5 W."""
    plain, found = (cost("splitfed_shared", load, parts=machines(server=HandServer(works=works)))
                    for load in (hand_load(), u_shape()))  # fmt: skip
    assert found.total_s == pytest.approx(seconds)
    assert found.client_s - plain.client_s == pytest.approx([1.9, 1.35])
    assert found.compute_joule - plain.compute_joule == pytest.approx([0.4, 6.4])
    assert found.radio_joule - plain.radio_joule == pytest.approx([2, 0.5])
    assert found.server_compute_joule - plain.server_compute_joule == pytest.approx(5)
    assert found.server_radio_joule - plain.server_radio_joule == pytest.approx(7.5)


def test_one_after_the_other_a_turn_adds_up():
    """13 s without it; 1.9 + 0.4 and 1.35 + 0.1 more."""
    assert cost("splitfed_v2", u_shape()).total_s == pytest.approx(13 + 2.3 + 1.45)


@pytest.mark.parametrize("algorithm", PARALLEL)
@pytest.mark.parametrize(("works", "seconds"), [("serial", 7.5), ("parallel", 7.3)])
def test_in_parallel_everybody_waits_for_the_last_twice(algorithm, works, seconds):
    """max(1 + 2, 2 + 0.5) = 3; server 0.3 + 0.2, or the longer of both; max(1 + 2, 3 + 1) = 4."""
    found = cost(algorithm, parts=machines(server=HandServer(works=works)))
    assert found.total_s == pytest.approx(seconds)


@pytest.mark.parametrize("works", ["serial", "parallel"])
@pytest.mark.parametrize("algorithm", ONE_BY_ONE)
def test_one_after_the_other_everything_adds_up(algorithm, works):
    """1 + 2 + 0.3 + 1 + 2 = 6.3 and 2 + 0.5 + 0.2 + 3 + 1 = 6.7."""
    assert cost(algorithm, parts=machines(server=HandServer(works=works))).total_s == pytest.approx(13)


def test_without_a_cut_a_step_is_the_longest_of_what_clients_compute():
    """Forward and backward 1 + 2 s and 2 + 0.75 s: 3 s, not max(1, 2) + max(2, 0.75) = 4 s."""
    nothing = numbers(0, 0)
    load = hand_load(
        server_flop=nothing, uplink_bit=nothing, downlink_bit=nothing, client_backward_flop=numbers(200, 300)
    )
    assert cost("fedavg", load).total_s == 3


def test_the_straggler_is_the_client_with_the_longest_stages_of_its_own():
    """6 s of client 0 and 6.5 s of client 2; without its 3 s of downlink it is client 0."""
    assert cost().straggler == 2
    assert cost(load=hand_load(downlink_bit=numbers(128, 0))).straggler == 0


def test_controls_take_the_place_of_what_the_fleet_has():
    """Clocks 50 and 200: s1 = 2 and 4, at 1e-6 · 50³ = 0.125 W and 8 W for 6 s each. Powers 1 and 3 W, bandwidths 2 and
    4: rates 64 · log2(2) · 2 = 128 and 64 · log2(4) · 4 = 512 bit/s, so 1 s and 1/16 s."""
    controls = Controls(clock_hz=numbers(50, 200), power_watt=numbers(1, 3), bandwidth_hz=numbers(2, 4))
    found = cost(controls=controls)
    assert found.forward_s.tolist() == [2, 4]
    assert found.backward_s.tolist() == [4, 2]
    assert found.compute_joule == pytest.approx([0.75, 48])
    assert found.uplink_s.tolist() == [1, 1 / 16]
    assert found.radio_joule.tolist() == [1, 3 / 16]
    assert found.downlink_s.tolist() == cost().downlink_s.tolist()


def test_a_client_sends_when_its_forward_pass_ends_and_the_server_when_it_has_served_all():
    """The channel takes (1 + t/10) times as long at t. Starting at 10 s: uplinks begin at 11 and 12 s and take
    2 · 2.1 = 4.2 and 0.5 · 2.2 = 1.1 s, so the last has arrived at 15.2 s; served at 15.7 s, downlinks take 2.57 and
    7.71 s."""
    found = cost(parts=machines(channel=SlowingChannel()), start_s=10.0)
    assert found.uplink_s == pytest.approx([4.2, 1.1])
    assert found.downlink_s == pytest.approx([2.57, 7.71])
    assert found.total_s == pytest.approx(5.7 + 8.71)


def test_one_by_one_each_begins_when_the_one_before_is_done():
    """Client 0 from 0 s: forward 1, uplink 2 · 1.1 = 2.2, server 0.3, downlink at 3.5 s 1.35, backward 2: until 6.85 s.
    Client 2: forward until 8.85 s, uplink 0.5 · 1.885 = 0.9425, server 0.2, downlink at 9.9925 s 3 · 1.99925, 1 s."""
    found = cost("splitfed_v2", parts=machines(channel=SlowingChannel()))
    assert found.uplink_s == pytest.approx([2.2, 0.9425])
    assert found.downlink_s == pytest.approx([1.35, 5.99775])
    assert found.total_s == pytest.approx(6.85 + 2 + 0.9425 + 0.2 + 5.99775 + 1)
    assert found.server_compute_joule == pytest.approx(5)
    assert found.server_radio_joule == pytest.approx(5 * (1.35 + 5.99775))


def test_one_by_one_each_has_all_of_its_mini_batches_before_the_next():
    """Client 0 goes on from 6.85 s: its second uplink begins at 7.85 s and takes 2 · 1.785 s."""
    parts = machines(channel=SlowingChannel())
    first, second = steps_in_turn(hand_load(), parts, rule_of("splitfed_v2"), steps=2)
    assert first.uplink_s[0] == pytest.approx(2.2)
    assert second.uplink_s[0] == pytest.approx(3.57)
    ends_s = (first.client_s + first.server_s + second.client_s + second.server_s)[0]
    assert first.uplink_s[1] == pytest.approx(0.5 * (1 + (ends_s + 2) / 10))


def test_those_who_send_at_once_share_a_band_and_those_who_have_a_turn_do_not():
    """Two share: twice the 2, 0.5, 1 and 3 s. One by one: as ever. Who has nothing to send leaves the
    band to others."""
    parts = machines(channel=SharedChannel())
    assert cost(parts=parts).uplink_s.tolist() == [4, 1]
    assert cost(parts=parts).downlink_s.tolist() == [2, 6]
    assert cost("splitfed_v2", parts=parts).uplink_s.tolist() == [2, 0.5]
    assert cost("splitfed_v2", parts=parts).downlink_s.tolist() == [1, 3]
    controls = Controls(power_watt=numbers(3, 1), bandwidth_hz=numbers(1, 2))
    alone = hand_load(uplink_bit=numbers(0, 128))
    assert cost(load=alone, parts=parts, controls=controls).uplink_s.tolist() == [0, 1]


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "fedavg"])
@pytest.mark.parametrize("varies", [False, True])
def test_nothing_to_send_takes_nothing_even_without_a_rate(algorithm, varies):
    load = hand_load(uplink_bit=numbers(0, 0), downlink_bit=numbers(0, 128))
    channel = HandChannel(gain=numbers(0, 1, 1, 1), varies_within_round=varies)
    found = cost(algorithm, load, machines(channel=channel))
    assert found.uplink_s.tolist() == [0, 0]
    assert found.radio_joule.tolist() == [0, 0]
    assert found.downlink_s.tolist() == [0, 1]


def test_energy_that_is_not_modelled_is_not_a_number():
    """Client 0 has no coefficient, the server neither power; client 2 computes at 64 W for 3 s as ever."""
    fleet = HandFleet(watt_per_cubic_hz=numbers(np.nan, 1e-6, 1e-6, 1e-6))
    server = HandServer(watt=np.nan, transmit_power_watt=np.nan)
    nothing = hand_load(client_forward_flop=numbers(0, 800), client_backward_flop=numbers(0, 400))
    for load in (hand_load(), nothing):
        found = cost(load=load, parts=machines(fleet=fleet, server=server))
        assert np.isnan(found.compute_joule[0])
        assert found.compute_joule[1] == pytest.approx(192)
        assert np.isnan(found.server_compute_joule)
        assert np.isnan(found.server_radio_joule)
        assert np.isfinite(found.total_s)


# Properties

amounts = st.floats(1, 1e6)
factors = st.floats(1.01, 100)


@st.composite
def loads(draw):
    return StepLoad(
        clients=whole(3, 0, 2),
        **{
            field.name: np.array(draw(st.lists(amounts, min_size=3, max_size=3)))
            for field in dataclasses.fields(StepLoad)
            if field.name != "clients"
        },
    )


@given(load=loads(), factor=factors, algorithm=st.sampled_from([*PARALLEL, *ONE_BY_ONE]))
def test_a_step_takes_less_with_more_bandwidth_power_or_clock(load, factor, algorithm):
    low = Controls(power_watt=np.full(3, 0.1), clock_hz=np.full(3, 10.0), bandwidth_hz=np.full(3, 0.1))
    slow = cost(algorithm, load, controls=low)
    for name in ("power_watt", "clock_hz", "bandwidth_hz"):
        high = dataclasses.replace(low, **{name: getattr(low, name) * factor})
        assert cost(algorithm, load, controls=high).total_s < slow.total_s


@given(load=loads(), factor=factors)
def test_computing_takes_the_cube_of_the_clock_per_second(load, factor):
    def watt(clock):
        found = cost(load=load, controls=Controls(clock_hz=np.full(3, clock)))
        return found.compute_joule / (found.forward_s + found.backward_s)

    assert watt(7.0 * factor) == pytest.approx(watt(7.0) * factor**3)


@given(load=loads())
def test_twice_the_clients_take_a_serial_server_twice_as_long(load):
    """The server of a parallel one takes no longer; one by one, all stages double."""
    doubled = load.of(np.array([0, 1, 2, 0, 1, 2]))
    parallel = machines(server=HandServer(works="parallel"))
    assert cost(load=doubled).served_s == pytest.approx(2 * cost(load=load).served_s)
    assert cost(load=doubled, parts=parallel).served_s == cost(load=load, parts=parallel).served_s
    assert cost("splitfed_v2", doubled).total_s == pytest.approx(2 * cost("splitfed_v2", load).total_s)


@given(load=loads(), algorithm=st.sampled_from([*PARALLEL, *ONE_BY_ONE]))
def test_all_at_once_equals_client_by_client(load, algorithm):
    """On a channel that does not change, the arrays hold what each client would cost alone."""
    together = cost(algorithm, load)
    for place in range(3):
        alone = cost(algorithm, load.of(np.array([place])))
        for stage in ("forward_s", "uplink_s", "server_s", "downlink_s", "backward_s", "compute_joule", "radio_joule"):
            assert getattr(alone, stage)[0] == getattr(together, stage)[place]
