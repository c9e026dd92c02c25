"""Recorded links: the bits they carry, how long bits take, and who is given which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transmissions import sent

from lightning_sfl.world.channel.traces import CapacityTrace, TraceChannel

# 4 bit/s for 1 s, nothing for 2 s, 1 bit/s for 1 s: 5 bit in 4 s.
HAND = CapacityTrace.of_rates(np.array([0.0, 1.0, 3.0, 4.0]), np.array([4.0, 0.0, 1.0]))


@st.composite
def traces(draw):
    """Rates of which some are 0, over steps of any length, so that there are outages, at either end as well."""
    rates = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any))
    steps = draw(st.lists(st.integers(1, 8), min_size=len(rates), max_size=len(rates)))
    times = np.concatenate(([0.0], np.cumsum(steps))) / 4
    return CapacityTrace.of_rates(times, np.array(rates, dtype=float))


def carried_slowly(trace, start, seconds):
    """Bit by bit of the trace's own steps, round and round."""
    rates = np.diff(trace.bit) / np.diff(trace.time_s)
    total, now, end = 0.0, 0.0, start + seconds
    while now < end:
        for rate, step in zip(rates, np.diff(trace.time_s), strict=True):
            total += rate * max(0.0, min(end, now + step) - max(start, now))
            now += step
    return total


@pytest.mark.parametrize(
    ("bit", "start", "expected"),
    [
        (0.0, 2.0, 0.0),  # nothing takes no time, in an outage, too
        (2.0, 0.0, 0.5),
        (4.0, 0.0, 1.0),  # there at once when the outage begins, not at its end
        (4.5, 0.0, 3.5),
        (5.0, 0.0, 4.0),  # one whole period
        (6.0, 0.0, 4.25),
        (1.0, 1.0, 3.0),  # waits for 2 s
        (2.0, 3.0, 1.25),  # into the next period
        (10.0, 2.0, 7.0),  # 1 bit by 4 s, 5 bit more by 8 s, the last 4 bit by 9 s
        (4.0, 7.5, 0.5 + 0.875),  # half a bit, then 3.5 bit at 4 bit/s
    ],
)
def test_how_long_bits_take_by_hand(bit, start, expected):
    """4 bit/s for 1 s, nothing for 2 s, 1 bit/s for 1 s, and again."""
    assert HAND.seconds(np.array([bit]), np.array([start])).tolist() == [expected]


def test_periods_and_means_by_hand():
    assert HAND.period_s == 4.0
    assert HAND.mean_bit_per_s == 1.25
    assert HAND.carried_bit(np.array([0.0, 0.5, 2.0, 6.0]), np.array([4.0, 1.0, 9.0, 0.5])).tolist() == [5, 2, 10, 0]


@given(trace=traces(), start=st.floats(0, 50), seconds=st.floats(0, 30))
def test_carried_bits_equal_the_slow_obvious_way(trace, start, seconds):
    found = trace.carried_bit(np.array([start]), np.array([seconds]))[0]
    assert found == pytest.approx(carried_slowly(trace, start, seconds), abs=1e-9)


@given(trace=traces(), start=st.floats(0, 50), bit=st.floats(1e-3, 100))
def test_seconds_are_the_inverse_of_carried_bits(trace, start, bit):
    """When the time is over the bits are there, and a moment before they were not."""
    seconds = trace.seconds(np.array([bit]), np.array([start]))[0]
    assert carried_slowly(trace, start, seconds) == pytest.approx(bit, rel=1e-9)
    assert carried_slowly(trace, start, seconds - 1e-6) < bit - 1e-9


@given(trace=traces(), start=st.floats(0, 50), bit=st.floats(0, 50), more=st.floats(0, 50))
def test_two_transmissions_in_a_row_take_as_long_as_one(trace, start, bit, more):
    first = trace.seconds(np.array([bit]), np.array([start]))
    second = trace.seconds(np.array([more]), start + first)
    together = trace.seconds(np.array([bit + more]), np.array([start]))
    if more > 1e-6:  # less is lost in the rounding of the instant at which it begins
        assert first + second == pytest.approx(together, abs=1e-6)


def test_the_bits_of_whole_periods_are_there_before_the_outage_at_their_end():
    """2 bit/s for 1 s, then nothing for 1 s: 2 bit take 1 s, 4 bit 3 s; from 1.5 s on, 2 bit take 1.5 s."""
    trace = CapacityTrace.of_rates(np.array([0.0, 1.0, 2.0]), np.array([2.0, 0.0]))
    assert trace.seconds(np.array([2.0, 4.0, 2.0]), np.array([0.0, 0.0, 1.5])).tolist() == [1.0, 3.0, 1.5]


@given(trace=traces(), periods=st.integers(0, 1000))
def test_whole_periods_take_whole_periods(trace, periods):
    """From the trace's first bit on, which may come after an outage."""
    start = trace.time_s[:1]
    last = trace.seconds(trace.bit[-1:], start)  # when the last bit of a period is there
    found = trace.seconds(trace.bit[-1:] * (periods + 1), start)
    assert found == pytest.approx(periods * trace.period_s + last)


@pytest.mark.parametrize(
    ("times", "bits", "message"),
    [
        ([0, 1, 1], [0, 1, 2], r"drive: time_s\[2\]=1 follows 1; time must go forwards"),
        ([0, 2, 1], [0, 1, 2], r"drive: time_s\[2\]=1 follows 2"),
        ([0, 1, 2], [0, 2, 1], r"drive: bit\[2\]=1 follows 2; .*bits must not be taken back"),
        ([1, 2], [0, 1], r"drive: time_s starts at 1"),
        ([0, 1], [1, 2], r"drive: bit starts at 1"),
        ([0, 1], [0, np.nan], r"drive: bit starts at 0; give finite numbers"),
        ([0, 1], [0, 0], r"drive never delivers a bit"),
        ([0], [0], r"drive: time_s of shape \(1,\) .*two or more instants"),
        ([0, 1], [0, 1, 2], r"drive: time_s of shape \(2,\) and bit of shape \(3,\)"),
    ],
)
def test_bad_traces_are_refused(times, bits, message):
    with pytest.raises(ValueError, match=message):
        CapacityTrace(time_s=times, bit=bits, name="drive")


# The channel

FAST = CapacityTrace.of_rates(np.array([0.0, 2.0]), np.array([8.0]))
SLOW = CapacityTrace.of_rates(np.array([0.0, 2.0]), np.array([1.0]))


def test_one_trace_each_by_hand():
    """Client 0 sends 4 bit at 4 bit/s in 1 s, client 1 8 bit at 8 bit/s; down, 4 bit at 8 and 1 bit/s."""
    channel = TraceChannel.one_each([HAND, FAST], [FAST, SLOW])
    assert channel.varies_within_round
    assert channel.uplink_s(np.array([4.0, 8.0]), sent(0, 1)).tolist() == [1.0, 1.0]
    assert channel.downlink_s(np.array([4.0, 4.0]), sent(1, 0)).tolist() == [4.0, 0.5]
    assert channel.uplink_s(np.array([0.0, 8.0]), sent(0, 1, start_s=[1.5, 1.5])).tolist() == [0.0, 1.0]
    assert channel.uplink_s(np.array([1.0]), sent(0, start_s=[1.5])).tolist() == [2.5]


def test_what_is_seen_is_the_mean_of_the_last_second():
    """At 1.5 s half of the last second had 4 bit/s; at 0.5 s of the first period, half of it lies in the one before.

    There it had 1 bit/s: ½ · 1 + ½ · 4 = 2.5 bit/s. At 3 s, nothing was carried for 2 s.
    """
    channel = TraceChannel.one_each([HAND], [FAST])
    seen = [channel.uplink_bit_per_s(sent(0, start_s=[start]))[0] for start in (1.5, 0.5, 3.0, 4.5)]
    assert seen == pytest.approx([2.0, 2.5, 0.0, 2.5])
    assert channel.downlink_bit_per_s(sent(0, start_s=[0.3])) == pytest.approx([8.0])


def test_few_traces_are_dealt_out_round_and_round_from_drawn_instants():
    channel = TraceChannel.dealt([HAND, FAST], [SLOW], num_clients=400, seed=1)
    assert channel.downlink_s(np.ones(400), sent(*range(400))) == pytest.approx(np.ones(400))
    assert channel.uplink_s(np.full(200, 8.0), sent(*range(1, 400, 2))) == pytest.approx(np.ones(200))
    offsets = channel.offset_s[::2]
    assert 0 <= offsets.min() < 0.2
    assert 3.8 < offsets.max() < 4.0
    assert offsets.mean() == pytest.approx(2.0, abs=0.25)  # standard error 4/√12/√200 = 0.08
    at = HAND.seconds(np.full(200, 3.0), offsets + 7.0)
    assert channel.uplink_s(np.full(200, 3.0), sent(*range(0, 400, 2), start_s=7.0)).tolist() == at.tolist()


@given(few=st.integers(1, 9), more=st.integers(9, 20), seed=st.integers(0, 1000))
def test_a_clients_trace_does_not_depend_on_how_many_there_are(few, more, seed):
    small, large = (TraceChannel.dealt([HAND, FAST], [SLOW], count, seed) for count in (few, more))
    everybody = sent(*range(few), start_s=1.0)
    assert (
        small.uplink_s(np.full(few, 3.0), everybody).tolist() == large.uplink_s(np.full(few, 3.0), everybody).tolist()
    )
    assert TraceChannel.dealt([HAND], [SLOW], 3, seed + 1).offset_s.tolist() != small.offset_s[:3].tolist()


def test_bad_channels_are_refused():
    with pytest.raises(ValueError, match="2 uplink and 1 downlink traces"):
        TraceChannel.one_each([HAND, HAND], [HAND])
    for empty in ("uplink", "downlink"):
        with pytest.raises(ValueError, match=rf"TraceChannel\({empty}=...\) is empty"):
            TraceChannel.dealt(**{"uplink": [HAND], "downlink": [HAND], empty: []}, num_clients=2, seed=0)
    with pytest.raises(ValueError, match="offset_s=.* is not accepted: give seconds of at least 0"):
        TraceChannel(uplink=[HAND], downlink=[HAND], offset_s=[0.0, -1.0])
    channel = TraceChannel.dealt([HAND], [HAND], 3, 0)
    channel.check(3)
    with pytest.raises(ValueError, match="TraceChannel is for 3 clients, but num_clients=4"):
        channel.check(4)
    with pytest.raises(ValueError, match="power_watt is allocated, but the rates of TraceChannel are given"):
        channel.uplink_s(np.ones(1), sent(0, power_watt=[0.1]))
    with pytest.raises(ValueError, match="bandwidth_hz is allocated, but the rates of TraceChannel are given"):
        channel.downlink_bit_per_s(sent(0, bandwidth_hz=[1.0]))
