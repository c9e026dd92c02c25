"""The wireless channel and its fading, against hand-made numbers and a slow obvious computation."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transmissions import sent

from lightning_sfl.world.channel.fading import BlockRayleigh, FastRayleigh, Static
from lightning_sfl.world.channel.wireless import (
    OwnBandwidth,
    SharedBandwidth,
    WirelessChannel,
    dbm_to_watt,
    macro_path_gain,
    power_law_gain,
)

MEGA = 1e6


def channel(clients=2, **changed):
    """Uplink: 0.3 W · 1e-8 / (1 MHz · 1e-15 W/Hz) = 3. Downlink: 1.4 W · 1e-8 / (2 MHz · 1e-15 W/Hz) = 7."""
    fields = {
        "uplink_gain": np.full(clients, 1e-8),
        "downlink_gain": np.full(clients, 1e-8),
        "client_power_watt": np.full(clients, 0.3),
        "server_power_watt": 1.4,
        "uplink_bandwidth": OwnBandwidth(bandwidth_hz=np.full(clients, MEGA)),
        "downlink_bandwidth": OwnBandwidth(bandwidth_hz=np.full(clients, 2 * MEGA)),
        "noise_watt_per_hz": 1e-15,
    }
    return WirelessChannel(**{**fields, **changed})


def test_shannons_rate_by_hand():
    """Signal to noise of 3 up and 7 down (see ``channel``): 1 MHz · log2(4) = 2 Mbit/s, 2 MHz · log2(8) = 6 Mbit/s.

    So 1 Mbit takes 1/2 s up and 1/6 s down.
    """
    both = sent(0, 1)
    bit = np.array([MEGA, 0.0])
    assert channel().uplink_bit_per_s(both) == pytest.approx([2 * MEGA] * 2, rel=1e-14)
    assert channel().downlink_bit_per_s(both) == pytest.approx([6 * MEGA] * 2, rel=1e-14)
    assert channel().uplink_s(bit, both) == pytest.approx([0.5, 0], rel=1e-14)
    assert channel().downlink_s(bit, both) == pytest.approx([1 / 6, 0], rel=1e-14)


def test_every_client_has_its_own_gain_power_and_band():
    """Signal to noise: client 0 has 3 (see ``channel``); client 1 0.1 · 5e-9 / (0.5 MHz · 1e-15) = 1.

    Client 2 has 0.7 · 2e-8 / (2 MHz · 1e-15) = 7. Rates: 1 · 2, 0.5 · 1, 2 · 3 Mbit/s.
    """
    each = channel(
        uplink_gain=[1e-8, 5e-9, 2e-8],
        downlink_gain=1e-8,
        client_power_watt=[0.3, 0.1, 0.7],
        uplink_bandwidth=OwnBandwidth(bandwidth_hz=[MEGA, 0.5 * MEGA, 2 * MEGA]),
    )
    assert each.uplink_bit_per_s(sent(0, 1, 2)) == pytest.approx([2 * MEGA, 0.5 * MEGA, 6 * MEGA])
    assert each.uplink_bit_per_s(sent(2, 0)) == pytest.approx([6 * MEGA, 2 * MEGA])


def test_an_allocation_replaces_power_and_bandwidth_of_the_uplink():
    """0.75 W instead of 0.3 W in half the band: 0.75 · 1e-8 / (0.5 MHz · 1e-15) = 15, so 0.5 MHz · log2(16) = 2 Mbit/s.

    0.35 W in half the band is 7: 0.5 MHz · 3 = 1.5 Mbit/s. The downlink stays 6 Mbit/s.
    """
    allocated = sent(0, 1, power_watt=[0.75, 0.35], bandwidth_hz=[0.5 * MEGA, 0.5 * MEGA])
    assert channel().uplink_bit_per_s(allocated) == pytest.approx([2 * MEGA, 1.5 * MEGA])
    assert channel().uplink_s(np.array([MEGA, MEGA]), allocated) == pytest.approx([1 / 2, 1 / 1.5])
    assert channel().downlink_bit_per_s(allocated) == pytest.approx([6 * MEGA] * 2)


def test_those_who_send_share_a_band_equally():
    """4 MHz for 4 are 1 MHz each: 2 Mbit/s (see ``channel``). For one, 0.3e-8 / 4e-9 = 3/4: 4 MHz · log2(1.75)."""
    shared = channel(clients=5, uplink_bandwidth=SharedBandwidth(total_hz=4 * MEGA))
    assert shared.uplink_bit_per_s(sent(0, 1, 2, 4)) == pytest.approx([2 * MEGA] * 4)
    assert shared.uplink_bit_per_s(sent(3)) == pytest.approx([4 * MEGA * math.log2(1.75)])
    allocated = sent(0, 1, bandwidth_hz=[MEGA, 3 * MEGA])
    assert shared.uplink_bit_per_s(allocated) == pytest.approx([2 * MEGA, 3 * MEGA * math.log2(2)])
    assert shared.uplink_s(np.zeros(0), sent()).tolist() == []
    with pytest.raises(ValueError, match=r"bandwidth_hz adds up to 5000000 for 2 clients, .* 4e\+06 hertz"):
        shared.uplink_bit_per_s(sent(0, 1, bandwidth_hz=[MEGA, 4 * MEGA]))


def test_a_third_of_a_band_three_times_is_not_more_than_the_band():
    shared = channel(clients=3, uplink_bandwidth=SharedBandwidth(total_hz=0.3))
    assert 0.1 + 0.1 + 0.1 > 0.3
    shared.uplink_bit_per_s(sent(0, 1, 2, bandwidth_hz=[0.1, 0.1, 0.1]))


def test_path_loss_by_hand():
    """128.1 dB at 1 km, 37.6 dB less at 100 m: 10^-12.81 and 10^-9.05. 1e-6 · 100^-1.3 = 10^-8.6."""
    assert macro_path_gain(np.array([1000.0, 100.0])) == pytest.approx([10**-12.81, 10**-9.05], rel=1e-13)
    assert power_law_gain(np.array([1.0, 100.0]), 1e-6, 1.3) == pytest.approx([1e-6, 10**-8.6], rel=1e-13)
    with pytest.raises(ValueError, match=r"macro_path_gain\(distance_m=...\) of client 1 is 0; .* above 0"):
        macro_path_gain(np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"power_law_gain\(distance_m=...\) of client 0 is -1"):
        power_law_gain(np.array([-1.0]), 1e-6, 1.3)


def test_levels_in_dbm_by_hand():
    """0 dBm is a milliwatt, 10 dB are a factor of ten; k·T at 290 K is 4.0e-21 W/Hz, the usual -174 dBm/Hz."""
    assert [dbm_to_watt(level) for level in (-30, 0, 20, 30)] == [1e-6, 1e-3, 0.1, 1.0]
    assert dbm_to_watt(33) == pytest.approx(1.9953, abs=1e-4)
    assert dbm_to_watt(-174) == pytest.approx(1.380649e-23 * 290, rel=0.01)


@given(
    gain=st.floats(1e-12, 1e-3),
    power=st.floats(0.01, 1.0),
    bandwidth=st.floats(1e3, 1e8),
    more=st.floats(1.01, 10.0),
    bit=st.floats(1.0, 1e9),
)
def test_more_power_or_bandwidth_is_less_time(gain, power, bandwidth, more, bit):
    wide = channel(clients=1, uplink_gain=[gain], downlink_gain=gain, client_power_watt=1.0)
    wide = dataclasses.replace(wide, uplink_bandwidth=OwnBandwidth(bandwidth_hz=[1e10]))

    def seconds(watt, hertz):
        return wide.uplink_s(np.array([bit]), sent(0, power_watt=[watt], bandwidth_hz=[hertz]))[0]

    assert seconds(power * more, bandwidth) < seconds(power, bandwidth)
    assert seconds(power, bandwidth * more) < seconds(power, bandwidth)
    assert wide.uplink_bit_per_s(sent(0, power_watt=[power], bandwidth_hz=[bandwidth]))[0] == pytest.approx(
        bandwidth * math.log1p(power * gain / (bandwidth * 1e-15)) / math.log(2), rel=1e-12
    )


# Fading


FADINGS = (Static(), BlockRayleigh(seed=3), FastRayleigh(coherence_s=0.1, seed=3))


@pytest.mark.parametrize("fading", FADINGS)
@given(data=st.data(), registered=st.integers(1, 6), seed=st.integers(0, 9))
def test_sending_equals_the_slow_obvious_way(fading, data, registered, seed):
    """Client by client, block by block, with the C library's logarithm and each client's own factor."""
    draw = np.random.default_rng(seed)
    gains = draw.uniform(1e-9, 1e-8, registered)
    faded = channel(registered, uplink_gain=gains, downlink_gain=gains[::-1], fading=fading)
    who = data.draw(st.lists(st.integers(0, registered - 1), unique=True, min_size=1))
    sending = sent(*who, round=seed, start_s=draw.uniform(0, 3, len(who)))
    bit = draw.uniform(0, MEGA, len(who)) * draw.integers(0, 2, len(who))
    assert faded.uplink_s(bit, sending) == pytest.approx(
        [naive(faded, "uplink", bit[k], sending, k) for k in range(len(who))], rel=1e-9
    )
    assert faded.downlink_s(bit, sending) == pytest.approx(
        [naive(faded, "downlink", bit[k], sending, k) for k in range(len(who))], rel=1e-9
    )


def naive(faded, direction, bit, sending, entry):
    client, time, end = sending.clients[entry], sending.start_s[entry], 0.0
    gain, watt, hertz = (
        (faded.uplink_gain, 0.3, MEGA) if direction == "uplink" else (faded.downlink_gain, 1.4, 2 * MEGA)
    )
    block = int(faded.fading.block(sending.round, sending.start_s)[entry])
    seconds = 0.0
    while bit > 0:
        factor = faded.fading.factor(direction, np.arange(6), block)[client]
        rate = hertz * math.log2(1 + watt * gain[client] * factor / (hertz * 1e-15))
        end = faded.fading.end_s(block)
        span = min(bit / rate, end - time)
        seconds, bit, time, block = seconds + span, bit - rate * span, end, block + 1
        bit = 0.0 if bit < 1e-6 else bit
    return seconds


@dataclasses.dataclass(frozen=True)
class Stepping(Static):
    """A gain that is the mean's in the first second, its fivefold in the next, and so on."""

    def block(self, round, start_s):
        return np.floor(start_s).astype(np.int64)

    def end_s(self, block):
        return block + 1.0

    def factor(self, direction, clients, block):
        return np.full(len(clients), 1.0 + 4.0 * block)


def test_a_transmission_goes_through_the_blocks_by_hand():
    """A signal-to-noise ratio of 3 in the first second and of 15 in the second: 2 Mbit/s and 4 Mbit/s.

    5 Mbit from 0.5 s on: 1 Mbit in the half second that is left, 4 Mbit in the whole second after it: 1.5 s. Client 1
    begins at 1.25 s: 2 Mbit take 0.5 s. What is seen at the beginning is 2 and 4 Mbit/s.
    """
    stepping = channel(fading=Stepping())
    both = sent(0, 1, start_s=[0.5, 1.25])
    assert stepping.uplink_s(np.array([5 * MEGA, 2 * MEGA]), both) == pytest.approx([1.5, 0.5], rel=1e-12)
    assert stepping.uplink_bit_per_s(both) == pytest.approx([2 * MEGA, 4 * MEGA], rel=1e-12)


@pytest.mark.parametrize("fading", FADINGS[1:])
def test_a_clients_gain_is_its_own(fading):
    """Neither who else sends, nor how many are registered, nor another's mean gain moves it."""
    few = channel(3, fading=fading)
    many = channel(9, uplink_gain=[1e-8, 1e-8, *[1e-9] * 7], fading=fading)
    alone = few.uplink_bit_per_s(sent(1, round=4, start_s=2.0))
    assert alone[0] == few.uplink_bit_per_s(sent(2, 1, 0, round=4, start_s=2.0))[1]
    assert alone[0] == many.uplink_bit_per_s(sent(8, 1, round=4, start_s=2.0))[1]


def test_directions_and_rounds_and_clients_fade_independently():
    """Of 2,000 Exp(1) draws the mean's standard error is 0.022, and so is that of a correlation."""
    fading, everybody = BlockRayleigh(seed=0), np.arange(2000)
    up, down, later = (fading.factor(*case) for case in block_cases(everybody))
    assert up.mean() == pytest.approx(1, abs=0.09)
    assert up.var() == pytest.approx(1, abs=0.3)
    for other in (down, later, np.roll(up, 1)):
        assert abs(np.corrcoef(up, other)[0, 1]) < 0.09
    assert fading.block(5, np.zeros(2)).tolist() == [5, 5]


def block_cases(everybody):
    return ("uplink", everybody, 0), ("downlink", everybody, 0), ("uplink", everybody, 1)


def test_block_fading_stays_for_the_round_and_fast_fading_does_not():
    block, fast = (channel(fading=fading) for fading in FADINGS[1:])
    early, late = (sent(0, 1, round=2, start_s=start) for start in (0.03, 0.37))
    assert block.uplink_bit_per_s(early).tolist() == block.uplink_bit_per_s(late).tolist()
    assert block.uplink_bit_per_s(early).tolist() != block.uplink_bit_per_s(sent(0, 1, round=3)).tolist()
    assert (fast.uplink_bit_per_s(early) != fast.uplink_bit_per_s(late)).all()
    assert fast.uplink_bit_per_s(early).tolist() == fast.uplink_bit_per_s(sent(0, 1, round=7, start_s=0.09)).tolist()
    assert (block.uplink_bit_per_s(early) != block.downlink_bit_per_s(early) / 3).all()


@pytest.mark.parametrize("fading", FADINGS)
def test_a_channel_says_whether_it_varies_within_a_round(fading):
    asked = channel(fading=fading)
    seconds = [asked.uplink_s(np.ones(1), sent(0, round=1, start_s=start))[0] for start in (0.0, 0.5)]
    assert asked.varies_within_round == (seconds[0] != seconds[1])


def test_a_long_transmission_sees_the_mean_rate_of_fast_fading():
    """Over 2,000 blocks: E[log2(1 + 3X)], X ~ Exp(1), is e^(1/3)·E1(1/3)/ln 2 = 1.3956 · 0.8289 / 0.6931 = 1.669.

    (E1(1/3) = 0.8289 from tables.) Its standard error is about 1.0/√2000 = 0.02.
    """
    fast = channel(fading=FastRayleigh(coherence_s=1e-3))
    seconds = fast.uplink_s(np.full(2, 2 * 1.669 * MEGA), sent(0, 1))
    assert seconds == pytest.approx([2.0, 2.0], rel=0.05)


def test_the_same_seed_gives_the_same_gains_on_every_machine():
    """Recorded once, seed 3."""
    up = BlockRayleigh(seed=3).factor("uplink", np.arange(2), 4)
    down = FADINGS[2].factor("downlink", np.arange(2), 4)
    assert [x.hex() for x in up] == ["0x1.b6d53af85c198p-1", "0x1.d920743ffe66dp-4"]
    assert [x.hex() for x in down] == ["0x1.d167a384f0b6fp-4", "0x1.11b6a8b178601p+1"]
    rates = channel(fading=FADINGS[1]).uplink_bit_per_s(sent(0, 1, round=4))
    assert [x.hex() for x in rates] == ["0x1.c059bf58ba2b4p+20", "0x1.a32f2a0ed8c36p+18"]


# Bad input


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"uplink_gain": [1e-8, -100.0]}, r"uplink_gain=...\) of client 1 is -100; .* at most 1 \(a ratio of powers"),
        ({"downlink_gain": 2.0}, r"downlink_gain=...\) of client 0 is 2"),
        ({"client_power_watt": [0.1, 23.0]}, r"client 1 is 23; .* looks like dBm: 23 dBm are 0.1995 W"),
        ({"server_power_watt": 46.0}, r"server_power_watt=...\) is 46; .* at most 40 watts. It looks like dBm"),
        ({"noise_watt_per_hz": -174.0}, r"is -174; .* It looks like dBm/Hz: -174 dBm/Hz are 3.981e-21 W/Hz"),
    ],
)
def test_what_is_out_of_range_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        channel(**changed)


def test_bands_and_times_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"OwnBandwidth\(bandwidth_hz=...\) of client 1 is -1; it must be above 0"):
        OwnBandwidth(bandwidth_hz=[1.0, -1.0])
    with pytest.raises(ValueError, match=r"SharedBandwidth\(total_hz=...\) is 0; it must be above 0"):
        SharedBandwidth(total_hz=0.0)
    with pytest.raises(ValueError, match=r"FastRayleigh\(coherence_s=...\) is 0; it must be above 0"):
        FastRayleigh(coherence_s=0.0)


def test_an_allocation_out_of_range_is_refused_by_client():
    with pytest.raises(ValueError, match=r"power_watt=...\) of client 5 is 20; .* 20 dBm are 0.1 W"):
        sent(3, 5, power_watt=[0.1, 20.0])
    with pytest.raises(ValueError, match=r"bandwidth_hz=...\) of client 3 is -1"):
        sent(3, 5, bandwidth_hz=[-1.0, 20.0])
    with pytest.raises(ValueError, match=r"power_watt=...\) has the shape \(1,\) for 2 clients"):
        sent(3, 5, power_watt=[0.1])
    with pytest.raises(ValueError, match=r"bandwidth_hz=2e\+06 of client 1 is not accepted: its band has 1e\+06 hertz"):
        channel().uplink_s(np.ones(2), sent(0, 1, bandwidth_hz=[1.0, 2 * MEGA]))


def test_a_channel_for_fewer_clients_is_refused():
    channel(3).check(3)
    with pytest.raises(ValueError, match="WirelessChannel is for 3 clients, but num_clients=4"):
        channel(3).check(4)
    short = channel(3, downlink_bandwidth=OwnBandwidth(bandwidth_hz=[1.0, 1.0]))
    with pytest.raises(ValueError, match="OwnBandwidth is for 2 clients, but num_clients=3"):
        short.check(3)
    channel(3, uplink_bandwidth=SharedBandwidth(total_hz=1.0)).check(3)
