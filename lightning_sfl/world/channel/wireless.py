"""The wireless channel: path loss, bandwidth and noise give a gain, the gain gives Shannon's rate."""

import dataclasses
from typing import Protocol

import numpy as np

from lightning_sfl.portable import exp, log, log1p
from lightning_sfl.world.arrays import FloatArray, IntArray, count, per_client, read_only
from lightning_sfl.world.channel.channel import Transmission
from lightning_sfl.world.channel.fading import Direction, Fading, Static
from lightning_sfl.world.checks import ACCEPTED, check, check_clients, check_number
from lightning_sfl.world.decibel import db_to_ratio, dbm_to_watt

__all__ = [
    "Bandwidth",
    "OwnBandwidth",
    "SharedBandwidth",
    "WirelessChannel",
    "dbm_to_watt",
    "macro_path_gain",
    "power_law_gain",
]

_LN2 = 0.6931471805599453
THERMAL_NOISE_WATT_PER_HZ = dbm_to_watt(-174.0)  # k·T at 290 K


def macro_path_gain(distance_m: FloatArray) -> FloatArray:
    """The mean power gain over a distance in a macro cell: a loss of 128.1 + 37.6 log10(d/km) dB.

    3GPP TR 36.814's urban macro model, recalled; the usual choice where a paper names no other.
    """
    check("macro_path_gain", "distance_m", read_only(distance_m))
    return power_law_gain(np.asarray(distance_m) / 1000.0, db_to_ratio(-128.1), 3.76)


def power_law_gain(distance_m: FloatArray, reference_gain: float, exponent: float) -> FloatArray:
    """The mean power gain over a distance by the power law h0·d^(-a), h0 being the gain over the unit of distance."""
    check("power_law_gain", "distance_m", read_only(distance_m))
    gain: FloatArray = reference_gain * exp(-exponent * log(read_only(distance_m)))
    return gain


class Bandwidth(Protocol):
    """Which bandwidth clients have."""

    def hz(self, clients: IntArray) -> FloatArray:
        """The bandwidth of each client that sends, shape (K,)."""

    def check_allocated(self, allocated_hz: FloatArray, clients: IntArray) -> None:
        """Raise a ValueError if there is not that much."""

    def check(self, num_clients: int) -> None:
        """Raise a ValueError if it is for fewer clients than there are."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnBandwidth:
    """Every client has a band of its own.

    Args:
        bandwidth_hz: Its width, one entry per registered client.
    """

    bandwidth_hz: FloatArray

    def __post_init__(self) -> None:
        clients = count("OwnBandwidth", "bandwidth_hz", self.bandwidth_hz)
        values = per_client("OwnBandwidth", "bandwidth_hz", self.bandwidth_hz, clients)
        object.__setattr__(self, "bandwidth_hz", check("OwnBandwidth", "bandwidth_hz", values))

    def hz(self, clients: IntArray) -> FloatArray:
        """See :meth:`Bandwidth.hz`."""
        return self.bandwidth_hz[clients]

    def check_allocated(self, allocated_hz: FloatArray, clients: IntArray) -> None:
        """See :meth:`Bandwidth.check_allocated`."""
        above = allocated_hz > self.bandwidth_hz[clients]
        if above.any():
            entry = int(np.argmax(above))
            raise ValueError(
                f"bandwidth_hz={allocated_hz[entry]:g} of client {clients[entry]} is not accepted: its band has"
                f" {self.bandwidth_hz[clients[entry]]:g} hertz."
            )

    def check(self, num_clients: int) -> None:
        """See :meth:`Bandwidth.check`."""
        check_clients("OwnBandwidth", len(self.bandwidth_hz), num_clients)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedBandwidth:
    """One band, which the clients of a transmission share equally unless they are allocated parts of it.

    Args:
        total_hz: Its width.
    """

    total_hz: float

    def __post_init__(self) -> None:
        check_number("SharedBandwidth", "total_hz", self.total_hz, accepted=ACCEPTED["bandwidth_hz"])

    def hz(self, clients: IntArray) -> FloatArray:
        """See :meth:`Bandwidth.hz`."""
        return np.full(len(clients), self.total_hz / max(1, len(clients)))

    def check_allocated(self, allocated_hz: FloatArray, clients: IntArray) -> None:
        """See :meth:`Bandwidth.check_allocated`."""
        together = float(allocated_hz.sum())
        if together > self.total_hz * (1.0 + 1e-9):  # parts of a whole may add up to a little more by rounding
            raise ValueError(
                f"bandwidth_hz adds up to {together:.10g} for {len(clients)} clients, but the band that they share has"
                f" {self.total_hz:g} hertz."
            )

    def check(self, num_clients: int) -> None:
        """See :meth:`Bandwidth.check`: any number of clients can share it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WirelessChannel:
    """A channel of Shannon's rate; every client has an orthogonal slice of the band (FDMA, OFDMA).

    Where a single number is given, it is every client's; ``uplink_gain`` says how many clients there are.

    Args:
        uplink_gain: Mean power gain of each client's path to the server, above 0, at most 1.
        downlink_gain: The same from the server to the client.
        client_power_watt: What each client sends with unless it is allocated another power.
        server_power_watt: What the server sends with in each client's slice.
        uplink_bandwidth: The bandwidth towards the server.
        downlink_bandwidth: The bandwidth from the server.
        noise_watt_per_hz: Noise density; that of heat at room temperature by default, -174 dBm/Hz.
        fading: How the gain changes; its draws for the two directions are independent.
    """

    uplink_gain: FloatArray
    downlink_gain: FloatArray
    client_power_watt: FloatArray
    server_power_watt: float
    uplink_bandwidth: Bandwidth
    downlink_bandwidth: Bandwidth
    noise_watt_per_hz: float = THERMAL_NOISE_WATT_PER_HZ
    fading: Fading = dataclasses.field(default_factory=Static)

    def __post_init__(self) -> None:
        clients = count("WirelessChannel", "uplink_gain", self.uplink_gain)
        for field in ("uplink_gain", "downlink_gain", "client_power_watt"):
            values = per_client("WirelessChannel", field, getattr(self, field), clients)
            object.__setattr__(self, field, check("WirelessChannel", field, values))
        for field in ("server_power_watt", "noise_watt_per_hz"):
            check_number("WirelessChannel", field, getattr(self, field))

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Channel.varies_within_round`."""
        return self.fading.varies_within_round

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_s`."""
        return self._seconds(bit, sent, self._uplink(sent), "uplink")

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_s`."""
        return self._seconds(bit, sent, self._downlink(sent), "downlink")

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_bit_per_s`."""
        return self._rate_seen(seen, self._uplink(seen), "uplink")

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_bit_per_s`."""
        return self._rate_seen(seen, self._downlink(seen), "downlink")

    def on_average(self) -> "WirelessChannel":
        """See :meth:`Channel.on_average`. A fading channel's mean rate is below that of its mean gain."""
        return dataclasses.replace(self, fading=Static())

    def check(self, num_clients: int) -> None:
        """See :meth:`Channel.check`."""
        check_clients("WirelessChannel", len(self.uplink_gain), num_clients)
        self.uplink_bandwidth.check(num_clients)
        self.downlink_bandwidth.check(num_clients)

    def _uplink(self, sent: Transmission) -> "_Radio":
        if sent.bandwidth_hz is None:
            bandwidth = self.uplink_bandwidth.hz(sent.clients)
        else:
            self.uplink_bandwidth.check_allocated(sent.bandwidth_hz, sent.clients)
            bandwidth = sent.bandwidth_hz
        power = self.client_power_watt[sent.clients] if sent.power_watt is None else sent.power_watt
        return _Radio(bandwidth, power * self.uplink_gain[sent.clients] / (bandwidth * self.noise_watt_per_hz))

    def _downlink(self, sent: Transmission) -> "_Radio":
        bandwidth = self.downlink_bandwidth.hz(sent.clients)
        received = self.server_power_watt * self.downlink_gain[sent.clients]
        return _Radio(bandwidth, received / (bandwidth * self.noise_watt_per_hz))

    def _rate_seen(self, seen: Transmission, radio: "_Radio", direction: Direction) -> FloatArray:
        blocks = self.fading.block(seen.round, seen.start_s)
        rate = np.empty(len(seen.clients))
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            rate[here] = radio.bit_per_s(here, self.fading.factor(direction, seen.clients[here], int(block)))
        return rate

    def _seconds(self, bit: FloatArray, sent: Transmission, radio: "_Radio", direction: Direction) -> FloatArray:
        """Send block by block, always in the earliest block of anybody who still has bits."""
        blocks = self.fading.block(sent.round, sent.start_s)
        left, now = np.array(bit, dtype=np.float64), np.array(sent.start_s, dtype=np.float64)
        elapsed = np.zeros(len(left))
        sending = np.flatnonzero(left > 0.0)
        while len(sending):
            block = int(blocks[sending].min())
            here = sending[blocks[sending] == block]
            rate = radio.bit_per_s(here, self.fading.factor(direction, sent.clients[here], block))
            end = self.fading.end_s(block)
            span = end - now[here]
            done = left[here] <= rate * span
            elapsed[here] += np.divide(left[here], rate, out=span.copy(), where=done)
            left[here] = np.where(done, 0.0, left[here] - rate * span)
            now[here] = end
            blocks[here] += 1
            sending = sending[left[sending] > 0.0]
        return elapsed


@dataclasses.dataclass(frozen=True)
class _Radio:
    """The bandwidth of every client that sends and its signal-to-noise ratio without fading, shape (K,)."""

    bandwidth_hz: FloatArray
    signal_to_noise: FloatArray

    def bit_per_s(self, entries: IntArray, factor: FloatArray) -> FloatArray:
        """Shannon's rate, r = B log2(1 + P|h|²/(B·N0)) (Wei & Chen 2026, system model)."""
        rate: FloatArray = self.bandwidth_hz[entries] * (log1p(self.signal_to_noise[entries] * factor) / _LN2)
        return rate
