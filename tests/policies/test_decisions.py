"""Observations, allocations made of them, and what is refused of a decision."""

import numpy as np
import pytest
from observed_worlds import observed
from world_cases import numbers

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.decision import Decision, check
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.environments import make_environment


class Policy:
    """Decides nothing of its own."""


def checked(seen, **allocation):
    check(Policy(), seen, Decision(allocation=Allocation(**allocation)))


def test_those_who_take_no_part_keep_what_they_have():
    seen = observed(clients=2, registered=4)
    given = seen.allocation(cut=np.array([1, 2]), batch_size=np.array([3, 4]))
    assert given == Allocation(cut=["b", "c", "a", "a"], batch_size=[3, 4, 8, 8])


def test_what_nobody_was_ever_given_is_as_built():
    """Registered clients 2 and 3 of the environment keep its power, clock and bandwidth; 32 bits are no quantiser."""
    seen = observed(clients=2, registered=4)
    fleet, channel = seen.world.fleet, seen.world.channel
    given = seen.allocation(
        transmit_power_watt=numbers(0.1, 0.2),
        clock_hz=numbers(60e6, 70e6),
        bandwidth_hz=numbers(1e6, 2e6),
        bits=np.array([4, 8]),
    )
    assert given.transmit_power_watt == [0.1, 0.2, *channel.client_power_watt[2:]]
    assert given.clock_hz == [60e6, 70e6, *fleet.clock_hz[2:]]
    assert given.bandwidth_hz == [1e6, 2e6, 100e6, 100e6]
    assert given.bits == [4, 8, 32, 32]
    checked(
        seen, **{name: getattr(given, name) for name in ("transmit_power_watt", "clock_hz", "bandwidth_hz", "bits")}
    )


def test_an_allocation_is_made_of_one_entry_for_each_who_takes_part():
    seen = observed(clients=2, registered=4)
    assert seen.allocation(batch_size=[3, 4]).batch_size == [3, 4, 8, 8]
    for wrong, message in (
        ({"batch_size": np.array([4])}, r"batch_size has the shape \(1,\) for 2 clients; it needs one entry for each"),
        ({"clock_hz": numbers(1, 2, 3)}, r"clock_hz has the shape \(3,\) for 2 clients"),
        ({"cut": np.array([0, 3])}, "cut=3 of client 1 is not accepted: it must be one of 3 cuts, counted from 0"),
        ({"cut": np.array([-1, 0])}, "cut=-1 of client 0 is not accepted"),
        ({"cut": np.array([0.5, 0])}, "cut=0.5 of client 0 is not accepted"),
    ):
        with pytest.raises(ValueError, match=message):
            seen.allocation(**wrong)


def test_given_rates_have_no_power_to_allocate():
    seen = observed("hasfl")
    assert seen.radio is None
    with pytest.raises(ValueError, match="bandwidth_hz is allocated, but the rates of RateChannel are given"):
        seen.allocation(bandwidth_hz=numbers(1, 1, 1, 1))
    with pytest.raises(ValueError, match="Policy decided transmit_power_watt, but the rates of RateChannel"):
        checked(seen, transmit_power_watt=[0.1] * 4)


def test_the_radio_is_what_the_rate_is_made_of():
    """Shannon's rate of the seen channel at 33 dBm, by hand from the gain over the noise."""
    seen = observed("wei_chen")
    radio = seen.radio
    assert radio.total_hz is None
    ratio = radio.most_watt * radio.gain_to_noise_hz_per_watt / radio.own_hz
    cost = seen.world.step(seen.participation(), round=3)
    assert cost.load.uplink_bit / cost.uplink_s == pytest.approx(radio.own_hz * np.log2(1 + ratio))
    assert observed("safsl").radio.total_hz == 50e6


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        ({"cut": ["a", "b", "c", "d"]}, "Policy decided what is not accepted: cut='d' is not among the 3 cuts"),
        ({"batch_size": [1, 2]}, r"Policy decided what is not accepted: Allocation\(batch_size=...\) has 2 entries"),
        ({"clock_hz": [625e6, 625e6, 49e6, 625e6]}, "clock_hz=4.9e\\+07 for client 2, .* within the device's range"),
        ({"transmit_power_watt": [1, 2.1, 1, 1]}, "transmit_power_watt=2.1 for client 1, .* at most the device's"),
        ({"bandwidth_hz": [1e8, 1e8, 1e8, 1.1e8]}, "bandwidth_hz=1.1e\\+08 of client 3"),
    ],
)
def test_what_there_is_not_is_refused_by_field_and_client(allocation, message):
    with pytest.raises(ValueError, match=message):
        checked(observed("wei_chen"), **allocation)


def test_parts_of_a_band_are_no_more_than_the_band():
    checked(observed("safsl"), bandwidth_hz=[12.5e6] * 4)
    with pytest.raises(ValueError, match="bandwidth_hz adds up to 52000000"):
        checked(observed("safsl"), bandwidth_hz=[13e6] * 4)


def test_a_batch_that_does_not_fit_is_refused():
    """At cut b, one sample takes 8·400 + 30 byte, of which a client holds 100 at most: 8·400 + 30·100 = 6,200."""
    fleet = Fleet(clock_hz=np.full(2, 1e9), flop_per_cycle=1.0, memory_byte=6200.0)
    seen = observed(clients=2, fleet=fleet)
    checked(seen, cut=["b", "b"], batch_size=[100, 1000])
    smaller = observed(clients=2, fleet=Fleet(clock_hz=np.full(2, 1e9), flop_per_cycle=1.0, memory_byte=6199.0))
    with pytest.raises(ValueError, match="cut and batch_size=100 for client 0, .* fits the device's memory"):
        checked(smaller, cut=["b", "b"], batch_size=[100, 1000])


def test_the_seen_channel_stays_as_it_was_at_that_instant():
    """Block fading is drawn once a round: the seen world of round 3 has its rates in every round."""
    seen, later = observed("wei_chen", round=3), observed("wei_chen", round=4)
    rate = seen.world.step(seen.participation(), round=3).uplink_s
    assert (rate == seen.world.step(seen.participation(), round=9, start_s=50.0).uplink_s).all()
    assert (rate != later.world.step(later.participation(), round=4).uplink_s).all()
    true = make_environment("wei_chen", 4, 0)
    assert seen.world.channel.uplink_gain != pytest.approx(true.channel.uplink_gain)
