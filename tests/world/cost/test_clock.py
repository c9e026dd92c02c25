"""Numbers of the parts stand in `world_cases`."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from world_cases import HandFleet, HandServer, SlowingChannel, numbers, who, whole, world

from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.rules import RULES

ALONE = ((2,), (0,), (3,))


def given_to(algorithm):
    return who(*ALONE) if RULES[algorithm].hands_on else who()


@pytest.mark.parametrize("algorithm", RULES)
def test_a_round_by_its_parts_is_the_round(algorithm):
    """The parts are asked for one by one, each from when the clock says."""
    asked = world(algorithm, channel=SlowingChannel(), aggregate_every=3)
    share = given_to(algorithm)
    whole_round, parts = Clock(), Clock()
    whole_round.advance(asked.round(share))
    parts.advance(asked.opening(share))
    if not RULES[algorithm].one_by_one or RULES[algorithm].hands_on:
        for _ in range(3):
            parts.advance(asked.step(share, start_s=parts.start_s(share.clients)))
    else:
        for place in range(2):
            alone = who((place,), (place,), (2 - place,))
            for _ in range(3):
                parts.advance(asked.step(alone, start_s=parts.start_s(alone.clients)))
    parts.advance(asked.closing(share, start_s=parts.start_s(share.clients)))
    assert parts.seconds == pytest.approx(whole_round.seconds)
    assert parts.seconds == pytest.approx(asked.round(share).total_s)
    assert parts.rounds == whole_round.rounds == 1
    assert parts.steps == whole_round.steps
    assert parts.client_compute_joule == pytest.approx(whole_round.client_compute_joule)
    assert parts.client_radio_joule == pytest.approx(whole_round.client_radio_joule)
    assert parts.server_radio_joule == pytest.approx(whole_round.server_radio_joule)
    assert parts.server_compute_joule == pytest.approx(whole_round.server_compute_joule)


@pytest.mark.parametrize("algorithm", RULES)
def test_rounds_add_up(algorithm):
    asked, share, clock = world(algorithm, aggregate_every=2), given_to(algorithm), Clock()
    cost = asked.round(share)
    clock.advance(cost)
    clock.advance(cost)
    assert clock.seconds == pytest.approx(2 * cost.total_s)
    assert clock.steps == (8 if algorithm == "splitfed_v2" else 4)
    assert clock.rounds == 2
    clients = share.clients.tolist()
    assert [clock.client_compute_joule[client] for client in clients] == pytest.approx(2 * cost.compute_joule)
    assert [clock.client_radio_joule[client] for client in clients] == pytest.approx(2 * cost.radio_joule)
    assert clock.server_compute_joule == pytest.approx(2 * cost.server_compute_joule)
    assert clock.server_radio_joule == pytest.approx(2 * cost.server_radio_joule)


def test_clients_without_a_cut_do_not_wait_for_each_other():
    """Per sample 300 FLOP. Client 0: 2 samples at 100 FLOP/s, 6 s a step; client 1: 1 sample at 200 FLOP/s, 1.5 s. The
    clock shows the latest."""
    asked, clock = world("fedavg"), Clock()
    clock.advance(asked.step(who()))
    assert clock.seconds == 6
    assert clock.start_s(whole(1, 0, 3)).tolist() == [1.5, 6, 0]
    clock.advance(asked.step(who((1,), (0,), (2,))))
    assert clock.start_s(whole(1, 0)).tolist() == [4.5, 6]
    assert clock.seconds == 6
    clock.advance(asked.closing(who()))
    assert clock.start_s(whole(1, 3)).tolist() == [clock.seconds] * 2


def test_only_those_who_took_part_cost_memory():
    clock = Clock()
    clock.advance(world().round(who((3, 1), (0, 0), (1, 1))))
    assert sorted(clock.client_compute_joule) == sorted(clock.client_radio_joule) == [1, 3]


def test_energy_that_is_not_modelled_stays_unknown():
    fleet = HandFleet(watt_per_cubic_hz=numbers(np.nan, 1, 1, 1))
    asked, clock = world(fleet=fleet, server=HandServer(watt=math.nan)), Clock()
    clock.advance(asked.round(who()))
    assert math.isnan(clock.client_compute_joule[0])
    assert math.isfinite(clock.client_compute_joule[1])
    assert math.isnan(clock.server_compute_joule)


@given(seed=st.integers(0, 2**16), algorithm=st.sampled_from(sorted(RULES)), cut_at=st.integers(0, 7))
def test_a_restored_clock_goes_on_bit_for_bit(seed, algorithm, cut_at):
    """Killed anywhere, also in mid-round; the state goes through a file that holds tensors and plain Python alone."""
    draw = np.random.default_rng(seed)
    asked = world(algorithm, channel=SlowingChannel())
    straight, resumed = Clock(), Clock()
    for place in range(8):
        share = who(*ALONE) if RULES[algorithm].hands_on else who((0, 3), (0, 1), draw.integers(1, 9, 2))
        ask = (asked.opening, asked.step, asked.step, asked.closing)[place % 4]
        for clock in (straight, resumed):
            start_s = clock.start_s(share.clients)
            clock.advance(ask(share, start_s=float(start_s.max()) if place % 4 == 0 else start_s))
        if place == cut_at:
            file = io.BytesIO()
            torch.save(resumed.state_dict(), file)
            file.seek(0)
            resumed = Clock()
            resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state_dict() == straight.state_dict()


def test_a_saved_state_does_not_change_with_the_clock():
    clock = Clock()
    clock.advance(world("fedavg").step(who()))
    saved = clock.state_dict()
    before = repr(saved)
    clock.advance(world("fedavg").step(who()))
    assert repr(saved) == before
    Clock().load_state_dict(saved)
    other = Clock()
    other.load_state_dict(saved)
    other.advance(world("fedavg").step(who()))
    assert repr(saved) == before
