"""What is known of a channel when a decision is due: its state at the instant, or its mean."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transmissions import sent

from lightning_sfl.world.channel.fading import BlockRayleigh, FastRayleigh, Static
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.recorded_gain import RecordedFading
from lightning_sfl.world.channel.seen import as_seen
from lightning_sfl.world.channel.traces import CapacityTrace, TraceChannel
from lightning_sfl.world.channel.wireless import OwnBandwidth, WirelessChannel

FADINGS = [BlockRayleigh(seed=1), FastRayleigh(coherence_s=0.5, seed=1)]


def wireless(fading):
    return WirelessChannel(
        uplink_gain=np.array([1e-9, 2e-9, 4e-9]),
        downlink_gain=np.array([4e-9, 2e-9, 1e-9]),
        client_power_watt=np.full(3, 0.5),
        server_power_watt=1.0,
        uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(3, 1e6)),
        downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(3, 2e6)),
        fading=fading,
    )


def rates(channel, *, round, start_s):
    asked = sent(0, 1, 2, start_s=start_s, round=round)
    return np.stack([channel.uplink_bit_per_s(asked), channel.downlink_bit_per_s(asked)])


@pytest.mark.parametrize("fading", FADINGS)
@given(round=st.integers(0, 9), start_s=st.floats(0, 50), later_s=st.floats(0, 50))
def test_the_state_of_an_instant_stays(fading, round, start_s, later_s):
    """The rates of that instant, whenever they are asked for."""
    channel = wireless(fading)
    seen = as_seen(channel, 3, round=round, start_s=start_s)
    expected = rates(channel, round=round, start_s=start_s)
    assert rates(seen, round=round + 1, start_s=later_s) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fading", FADINGS)
@given(round=st.integers(0, 9), start_s=st.floats(0, 50))
def test_the_mean_does_not_depend_on_the_instant(fading, round, start_s):
    channel = wireless(fading)
    seen = as_seen(channel, 3, round=round, start_s=start_s, csi="statistical")
    first = as_seen(channel, 3, round=0, start_s=0.0, csi="statistical")
    assert (rates(seen, round=round, start_s=start_s) == rates(first, round=0, start_s=0.0)).all()


@pytest.mark.parametrize("fading", FADINGS)
def test_the_mean_is_that_of_the_gains_of_many_instants(fading):
    """The mean of 1,000 factors of Exp(1) is 1 within 5 standard deviations, .16."""
    channel = wireless(fading)

    def gains(steady):
        found = as_seen(steady, 3, round=0, start_s=0.0)
        return np.stack([found.uplink_gain, found.downlink_gain])

    instants = range(1000)
    states = [as_seen(channel, 3, round=place, start_s=place * 0.5 + 0.25) for place in instants]
    mean = np.mean([gains(state) for state in states], axis=0)
    expected = gains(as_seen(channel, 3, round=7, start_s=3.0, csi="statistical"))
    assert mean == pytest.approx(expected, rel=0.16)
    assert expected.tolist() == [[1e-9, 2e-9, 4e-9], [4e-9, 2e-9, 1e-9]]


def test_recorded_fading_is_the_paths_mean_on_average():
    """Gains of .5 for 1 s and 1.25 for 2 s have the mean 1."""
    channel = wireless(RecordedFading(time_s=np.array([0.0, 1.0, 3.0]), gain=np.array([[0.5], [1.25]])))
    seen = as_seen(channel, 3, round=0, start_s=0.5, csi="statistical")
    assert rates(seen, round=0, start_s=0.5) == pytest.approx(rates(wireless(Static()), round=0, start_s=0.0))
    assert (
        rates(as_seen(channel, 3, round=0, start_s=0.5), round=0, start_s=2.0) < rates(seen, round=0, start_s=0.5)
    ).all()


def test_given_rates_that_spread_have_their_means():
    spread = RateChannel(
        mean_uplink_bit_per_s=np.array([10.0, 20.0, 30.0]),
        mean_downlink_bit_per_s=np.array([40.0, 50.0, 60.0]),
        uplink_sigma_bit_per_s=np.full(3, 5.0),
        downlink_sigma_bit_per_s=np.full(3, 5.0),
    )
    expected = [[10, 20, 30], [40, 50, 60]]
    assert rates(as_seen(spread, 3, round=4, start_s=0.0, csi="statistical"), round=4, start_s=0.0).tolist() == expected
    assert rates(as_seen(spread, 3, round=4, start_s=0.0), round=4, start_s=0.0).tolist() != expected


def test_recorded_links_have_the_means_of_their_whole_traces():
    """5 bit in 4 s are 1.25 bit/s, 6 in 3 are 2; of two traces for three clients, the third one has the first. Within
    the outage nothing is seen, which is taken for 1 bit/s."""
    up = CapacityTrace.of_rates(np.array([0.0, 1.0, 3.0, 4.0]), np.array([4.0, 0.0, 1.0]))
    down = CapacityTrace.of_rates(np.array([0.0, 3.0]), np.array([2.0]))
    channel = TraceChannel(uplink=[up, down], downlink=[down], offset_s=np.array([2.0, 0.0, 1.0]))
    seen = as_seen(channel, 3, round=0, start_s=0.5, csi="statistical")
    assert rates(seen, round=0, start_s=9.0).tolist() == [[1.25, 2.0, 1.25], [2.0, 2.0, 2.0]]
    assert rates(as_seen(channel, 3, round=0, start_s=0.0), round=0, start_s=9.0)[0, 0] == 1.0


def test_what_is_allocated_holds_for_means_too():
    """Half the power and band on the uplink: B/2 log2(1 + (P/2) g / (B/2 N0)) is half the rate."""
    seen = as_seen(wireless(FADINGS[1]), 3, round=0, start_s=0.0, csi="statistical")
    asked = sent(0, 1, 2)
    halved = dataclasses.replace(asked, power_watt=np.full(3, 0.25), bandwidth_hz=np.full(3, 5e5))
    assert seen.uplink_bit_per_s(halved) == pytest.approx(seen.uplink_bit_per_s(asked) / 2, rel=1e-12)
