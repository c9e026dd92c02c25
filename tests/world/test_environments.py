"""Worlds of the literature: their ranges, and one rate of each by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transmissions import sent

from lightning_sfl.world.channel.fading import Static
from lightning_sfl.world.environments import Environment, hasfl, make_environment, safsl, wei_chen

PRESETS = (hasfl, wei_chen, safsl)


def spans(values, low, high):
    """Whether 300 numbers lie in a range and fill it: each end's hundredth is missed by all with 0.99^300 = 5 %."""
    margin = 0.03 * (high - low)
    return low <= values.min() < low + margin and high - margin < values.max() <= high


def test_hasfl():
    """1 to 2 TFLOPS, 75 to 80 Mbit/s up, 360 to 380 Mbit/s down and between servers, 20 TFLOPS."""
    world, everybody = hasfl(300, 0), np.arange(300)
    assert spans(world.fleet.flop_per_s(everybody), 1e12, 2e12)
    assert spans(world.channel.uplink_bit_per_s(sent(*everybody)), 75e6, 80e6)
    assert spans(world.channel.downlink_bit_per_s(sent(*everybody)), 360e6, 380e6)
    assert world.server.flop_per_s() == pytest.approx(20e12)
    assert 360e6 <= world.server.inter_server_bit_per_s <= 380e6
    assert world.channel.uplink_bit_per_s(sent(0)) == world.channel.uplink_bit_per_s(sent(0, round=1))
    assert np.isnan(world.fleet.compute_watt(everybody)).all()  # the paper has no energy


def test_wei_chen():
    """33 dBm are 1.995 W; 1e-26 · (625 MHz)³ = 2.44 W; the server 3.135 GHz · 3e4 = 94 TFLOP/s, 616 W."""
    world, everybody = wei_chen(300, 0), np.arange(300)
    fleet = world.fleet
    assert spans(fleet.flop_per_cycle, 2e3, 3e4)
    assert set(fleet.clock_hz.tolist()) == {625e6}
    assert set(fleet.lowest_clock_hz.tolist()) == {50e6}
    assert fleet.compute_watt(everybody) == pytest.approx(np.full(300, 2.4414), rel=1e-4)
    assert fleet.transmit_power_watt == pytest.approx(np.full(300, 1.9953), rel=1e-4)
    assert world.channel.client_power_watt.tolist() == fleet.transmit_power_watt.tolist()
    assert world.server.flop_per_s() == pytest.approx(94.05e12)
    assert world.server.compute_watt() == pytest.approx(616.2, rel=1e-3)
    assert world.server.transmit_power_watt == world.channel.server_power_watt
    assert spans(world.channel.uplink_gain, 1e-7, 1e-6)


def test_a_rate_of_wei_chen_by_hand():
    """100 MHz · log2(1 + 1.9953 · g·x / (1e8 · 3.98e-21)), g the client's mean gain, x the round's draw.

    200 MHz down with g = 1e-6.
    """
    channel = wei_chen(3, 5).channel
    up, down = (channel.fading.factor(direction, np.array([1]), 7)[0] for direction in ("uplink", "downlink"))
    expected = 1e8 * math.log2(1 + 1.9952623 * channel.uplink_gain[1] * up / (1e8 * 3.98e-21))
    assert channel.uplink_bit_per_s(sent(1, round=7)) == pytest.approx([expected])
    expected = 2e8 * math.log2(1 + 1.9952623 * 1e-6 * down / (2e8 * 3.98e-21))
    assert channel.downlink_bit_per_s(sent(1, round=7)) == pytest.approx([expected])
    assert up != down


def test_safsl():
    """Gains of 1e-6·d^-1.3: 10^-8.6 at 100 m, 10^-9.9 at 1 km. 1e-28 · f³ at client 3's clock."""
    world, everybody = safsl(300, 0), np.arange(300)
    fleet = world.fleet
    assert spans(fleet.clock_hz, 0.1e9, 2e9)
    assert fleet.flop_per_s(everybody).tolist() == fleet.clock_hz.tolist()
    assert fleet.compute_watt(np.array([3])) == pytest.approx([1e-28 * fleet.clock_hz[3] ** 3])
    assert spans(fleet.transmit_power_watt, 0.1, 0.2)
    assert spans((world.channel.uplink_gain / 1e-6) ** (-1 / 1.3), 100, 1000)
    assert 10**-9.9 < world.channel.uplink_gain.min() < world.channel.uplink_gain.max() < 10**-8.6
    assert world.channel.fading == Static()


def test_a_rate_of_safsl_by_hand():
    """Five clients share 50 MHz, 10 MHz each, at a noise of -150 dBm/Hz = 1e-18 W/Hz."""
    world = safsl(5, 1)
    ratio = world.fleet.transmit_power_watt * world.channel.uplink_gain / (1e7 * 1e-18)
    assert world.channel.uplink_bit_per_s(sent(*range(5))) == pytest.approx(1e7 * np.log2(1 + ratio))
    ratio = 0.3 * world.channel.downlink_gain / (1e7 * 1e-18)
    assert world.channel.downlink_bit_per_s(sent(*range(5))) == pytest.approx(1e7 * np.log2(1 + ratio))


@pytest.mark.parametrize("preset", PRESETS)
@given(few=st.integers(1, 6), more=st.integers(6, 12), seed=st.integers(0, 1000))
def test_a_client_is_the_same_however_many_there_are(preset, few, more, seed):
    small, large = preset(few, seed), preset(more, seed)
    some = sent(*range(few), round=2)
    assert small.fleet.flop_per_s(some.clients).tolist() == large.fleet.flop_per_s(some.clients).tolist()
    for ask in ("uplink_bit_per_s", "downlink_bit_per_s"):
        assert getattr(small.channel, ask)(some).tolist() == getattr(large.channel, ask)(some).tolist()
    assert small.server == large.server or math.isnan(small.server.compute_watt())


@pytest.mark.parametrize("preset", PRESETS)
def test_seeds_differ_and_fleet_and_channel_are_for_all_clients(preset):
    world, other = preset(4, 0), preset(4, 1)
    everybody = sent(*range(4))
    assert (world.channel.uplink_bit_per_s(everybody) != other.channel.uplink_bit_per_s(everybody)).all()
    world.fleet.check(4)
    world.channel.check(4)
    for part in (world.fleet, world.channel):
        with pytest.raises(ValueError, match="is for 4 clients, but num_clients=5"):
            part.check(5)


def test_the_same_seed_gives_the_same_world_on_every_machine():
    """Recorded once, seed 11: the uplink's rates in round 3."""
    found = {preset.__name__: preset(2, 11).channel.uplink_bit_per_s(sent(0, 1, round=3)) for preset in PRESETS}
    assert {name: [x.hex() for x in rates] for name, rates in found.items()} == {
        "hasfl": ["0x1.237880dd6b73cp+26", "0x1.23deb794a16e4p+26"],
        "wei_chen": ["0x1.0382c30411682p+31", "0x1.cb37e4bc06404p+30"],
        "safsl": ["0x1.228e08eff76a8p+25", "0x1.dbe45773454abp+24"],
    }


def test_what_is_sent_with_is_what_is_paid_for():
    """A channel that sends with another power than fleet or server pay for is refused; NaN pays for nothing."""
    found = wei_chen(3, 0)
    louder = dataclasses.replace(
        found.channel, client_power_watt=np.array([found.server.transmit_power_watt, 1.0, 1.0])
    )
    with pytest.raises(
        ValueError, match=r"fleet.transmit_power_watt is 1.99526 \(entry 1\), and the channel sends with 1"
    ):
        Environment(fleet=found.fleet, channel=louder, server=found.server)
    quieter = dataclasses.replace(found.server, transmit_power_watt=1.0)
    with pytest.raises(
        ValueError, match=r"server.transmit_power_watt is 1 \(entry 0\), and the channel sends with 1.99"
    ):
        Environment(fleet=found.fleet, channel=found.channel, server=quieter)
    unpaid = dataclasses.replace(found.fleet, transmit_power_watt=np.full(3, math.nan))
    assert Environment(fleet=unpaid, channel=found.channel, server=found.server).fleet is unpaid


def test_devices_of_a_file_send_with_their_own_power(tmp_path):
    path = tmp_path / "devices.csv"
    path.write_text("clock_hz,flop_per_cycle,transmit_power_watt\n1e9,16,0.1\n2e9,8,0.2\n")
    found = make_environment(str(path), 2, 0)
    assert found.fleet.flop_per_s(np.arange(2)).tolist() == [16e9, 16e9]
    assert found.channel.client_power_watt.tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="Fleet is for 2 clients, but num_clients=3"):
        make_environment(str(path), 3, 0)
    path.write_text("clock_hz,flop_per_cycle\n1e9,16\n")
    with pytest.raises(ValueError, match="transmit_power_watt is missing"):
        make_environment(str(path), 1, 0)
