"""Worlds of the literature, named for their source. What is recalled or assumed is said where it is used.

Speeds are taken over as they are printed and read as FLOP of which a multiply-accumulate makes two. Papers of split
learning often count a multiply-accumulate as one; where theirs does, its devices are twice as fast as these.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import FloatArray, between
from lightning_sfl.world.channel.channel import Channel
from lightning_sfl.world.channel.fading import BlockRayleigh
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import OwnBandwidth, SharedBandwidth, WirelessChannel, power_law_gain
from lightning_sfl.world.decibel import dbm_to_watt
from lightning_sfl.world.devices.fleet import Fleet, FleetRanges
from lightning_sfl.world.devices.fleet_files import fleet_from_csv
from lightning_sfl.world.devices.server import Server


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Environment:
    """Devices, channel and server that belong together.

    Attributes:
        fleet: The clients' devices.
        channel: What lies between them and the server.
        server: The server.

    Raises:
        ValueError: Fleet and channel, or server and channel, do not send with the same power.
    """

    fleet: Fleet
    channel: Channel
    server: Server

    def __post_init__(self) -> None:
        if not isinstance(self.channel, WirelessChannel):
            return
        pairs: dict[str, tuple[FloatArray, FloatArray | float]] = {
            "fleet.transmit_power_watt": (self.fleet.transmit_power_watt, self.channel.client_power_watt),
            "server.transmit_power_watt": (np.array([self.server.transmit_power_watt]), self.channel.server_power_watt),
        }
        for name, (paid, sent) in pairs.items():
            sent_watt = np.atleast_1d(sent)[: len(paid)]
            paid_watt = paid[: len(sent_watt)]
            wrong = ~(np.isnan(paid_watt) | (paid_watt == sent_watt))
            if wrong.any():
                first = int(wrong.argmax())
                raise ValueError(
                    f"{name} is {paid_watt[first]:g} (entry {first}), and the channel sends with {sent_watt[first]:g}"
                    " watts; give both the same, or NaN where energy is not modelled."
                )

    def check(self, num_clients: int) -> None:
        """Raise a ValueError unless there is a device and a channel for each of ``num_clients``."""
        self.fleet.check(num_clients)
        self.channel.check(num_clients)


def hasfl(num_clients: int, seed: int) -> Environment:
    """The ranges of HASFL (Lin et al., arXiv 2506.08426), recalled and not checked against the paper's text.

    Clients of 1 to 2 TFLOPS, 75 to 80 Mbit/s up and 360 to 380 Mbit/s down; a server of 20 TFLOPS, 360 to 380 Mbit/s
    away from the one that aggregates. Rates stay over the rounds.

    Assumed: how speed divides into clock and FLOP per cycle (a speed is all the paper gives), that clocks are fixed,
    that memory is unlimited. Energy is no part of the paper: chip coefficients and transmit powers are not known.
    """
    tera = 1e12
    clock, server_clock = 1e9, 2e9
    mega = 1e6
    inter_server = _drawn(1, seed, "hasfl inter-server rate", (360 * mega, 380 * mega))
    return Environment(
        fleet=Fleet.drawn(
            num_clients, seed, FleetRanges(clock_hz=(clock, 2 * clock), flop_per_cycle=(tera / clock, tera / clock))
        ),
        channel=RateChannel(
            mean_uplink_bit_per_s=_drawn(num_clients, seed, "hasfl uplink", (75 * mega, 80 * mega)),
            mean_downlink_bit_per_s=_drawn(num_clients, seed, "hasfl downlink", (360 * mega, 380 * mega)),
        ),
        server=Server(
            clock_hz=server_clock,
            flop_per_cycle=20 * tera / server_clock,
            inter_server_bit_per_s=float(inter_server[0]),
        ),
    )


def wei_chen(num_clients: int, seed: int) -> Environment:
    """Table II of Wei & Chen 2026: Jetson Orin Nano clients, an RTX 4090 server, 100 MHz up, 200 MHz down per client.

    Clients of 50 to 625 MHz, 2,000 to 30,000 FLOP per cycle and G = 1e-26; a server of up to 3.135 GHz, 30,000 FLOP
    per cycle and G = 2e-26; powers of 20 to 33 dBm; mean gains of 1e-7 to 1e-6 up and 1e-6 down under Rayleigh fading;
    a noise of 3.98e-21 W/Hz.

    The clock's range is that within which every device can be run; the FLOP per cycle are drawn per device. Clients
    and server send with 33 dBm unless they are allocated less, and the server runs at its highest clock. Assumed: that
    the table's range of gains is that of the means, drawn uniformly, and that fading is drawn once a round; that the
    powers' range is the server's, too; that memory is unlimited and the server serves one client after the other (the
    paper's sum).
    """
    power = dbm_to_watt(33.0)
    return Environment(
        fleet=Fleet.drawn(
            num_clients,
            seed,
            FleetRanges(
                clock_hz=(625e6, 625e6),
                lowest_clock_hz=(50e6, 50e6),
                flop_per_cycle=(0.2e4, 3e4),
                watt_per_cubic_hz=(1e-26, 1e-26),
                transmit_power_watt=(power, power),
            ),
        ),
        channel=WirelessChannel(
            uplink_gain=_drawn(num_clients, seed, "wei_chen gain", (0.1e-6, 1e-6)),
            downlink_gain=np.full(num_clients, 1e-6),
            client_power_watt=np.full(num_clients, power),
            server_power_watt=power,
            uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(num_clients, 100e6)),
            downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.full(num_clients, 200e6)),
            noise_watt_per_hz=3.98e-21,
            fading=BlockRayleigh(seed=seed),
        ),
        server=Server(clock_hz=3.135e9, flop_per_cycle=3e4, watt_per_cubic_hz=2e-26, transmit_power_watt=power),
    )


def safsl(num_clients: int, seed: int) -> Environment:
    """The device set that a public simulator takes from SAFSL: weak devices far apart on a narrow band.

    Clocks of 0.1 to 2 GHz at 1 FLOP per cycle, κ = 1e-28, transmit powers of 0.1 to 0.2 W, distances of 100 to 1,000 m
    at a gain of 1e-6·d^(-1.3), 50 MHz shared by all, a base station of 0.3 W, a noise of -150 dBm/Hz.

    Assumed, since the set does not say: that a device can be clocked down to 0.1 GHz; that up- and downlink have 50 MHz
    each, that both have the same gain, without fading; that memory is unlimited; and the server's speed and chip, for
    which those of ``wei_chen`` stand in.
    """
    distance = _drawn(num_clients, seed, "safsl distance", (100.0, 1000.0))
    gain = power_law_gain(distance, 1e-6, 1.3)
    fleet = Fleet.drawn(
        num_clients,
        seed,
        FleetRanges(
            clock_hz=(0.1e9, 2e9),
            lowest_clock_hz=(0.1e9, 0.1e9),
            flop_per_cycle=(1.0, 1.0),
            watt_per_cubic_hz=(1e-28, 1e-28),
            transmit_power_watt=(0.1, 0.2),
        ),
    )
    return Environment(
        fleet=fleet,
        channel=WirelessChannel(
            uplink_gain=gain,
            downlink_gain=gain,
            client_power_watt=fleet.transmit_power_watt,
            server_power_watt=0.3,
            uplink_bandwidth=SharedBandwidth(total_hz=50e6),
            downlink_bandwidth=SharedBandwidth(total_hz=50e6),
            noise_watt_per_hz=dbm_to_watt(-150.0),
        ),
        server=Server(clock_hz=3.135e9, flop_per_cycle=3e4, watt_per_cubic_hz=2e-26, transmit_power_watt=0.3),
    )


ENVIRONMENTS: Mapping[str, Callable[[int, int], Environment]] = {"hasfl": hasfl, "wei_chen": wei_chen, "safsl": safsl}


def make_environment(name: str, num_clients: int, seed: int) -> Environment:
    """An environment by name, or of the devices in a CSV file, with the channel and server of ``wei_chen``.

    Args:
        name: One of ``ENVIRONMENTS``, or the path of a file that ends in ``.csv``.
        num_clients: Registered clients.
        seed: The seed.

    Raises:
        ValueError: There is none of this name, or the file is not accepted or has fewer devices than clients.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name](num_clients, seed)
    if not name.endswith(".csv"):
        raise ValueError(
            f"environment={name!r} is not known. Accepted are {', '.join(map(repr, ENVIRONMENTS))}, and the path of a"
            " .csv file of devices."
        )
    fleet = fleet_from_csv(Path(name))
    fleet.check(num_clients)
    power_watt = fleet.transmit_power_watt[:num_clients]
    if np.isnan(power_watt).any():
        raise ValueError(f"{name}: transmit_power_watt is missing, which the wireless channel of 'wei_chen' needs.")
    stand_in = wei_chen(num_clients, seed)
    assert isinstance(stand_in.channel, WirelessChannel)
    channel = dataclasses.replace(stand_in.channel, client_power_watt=power_watt)
    return Environment(fleet=fleet, channel=channel, server=stand_in.server)


def _drawn(num_clients: int, seed: int, purpose: str, ends: tuple[float, float]) -> FloatArray:
    return between(ends, uniforms(num_clients, seed, purpose))
