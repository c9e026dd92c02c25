"""What every channel between clients and server can be asked, and with what."""

import dataclasses
from typing import Protocol

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.checks import check


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transmission:
    """Who sends or receives when, with what: arrays with one entry per client that takes part, shape (K,).

    Args:
        clients: Indices of the clients.
        round: The round.
        start_s: When each of them begins, in simulated seconds since the run's start.
        power_watt: The transmit power that each is allocated on the uplink; None: the channel's own. The server's
            power is the channel's.
        bandwidth_hz: The bandwidth that each is allocated on the uplink; None: the channel's own. The downlink's is
            the channel's.
    """

    clients: IntArray
    round: int
    start_s: FloatArray
    power_watt: FloatArray | None = None
    bandwidth_hz: FloatArray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.clients),)
        for field in ("start_s", "power_watt", "bandwidth_hz"):
            values = getattr(self, field)
            if values is not None and np.shape(values) != shape:
                raise ValueError(
                    f"Transmission({field}=...) has the shape {np.shape(values)} for {shape[0]} clients; give one"
                    " number per client."
                )
        for field in ("power_watt", "bandwidth_hz"):
            values = getattr(self, field)
            if values is not None:
                check("Transmission", field, values, clients=self.clients)


class Channel(Protocol):
    """How long it takes to get bits across, per client. Bits are payload bits; none of them take exactly no time."""

    @property
    def varies_within_round(self) -> bool:
        """Whether the same bits of the same client may take longer later in the same round."""

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Seconds that each client takes to send its bits to the server, shape (K,)."""

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Seconds that the server takes to send each client its bits, shape (K,)."""

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """The uplink rate as it is seen at ``start_s``, shape (K,), which may go stale."""

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """The downlink rate as it is seen at ``start_s``, shape (K,)."""

    def on_average(self) -> "Channel":
        """The steady channel that has this one's mean gains; where rates are given, their means."""

    def check(self, num_clients: int) -> None:
        """Raise a ValueError if the channel is for fewer clients than there are."""


def refuse_allocation(channel: str, sent: Transmission) -> None:
    """Raise a ValueError if a channel whose rates are given is asked to use an allocation."""
    for field in ("power_watt", "bandwidth_hz"):
        if getattr(sent, field) is not None:
            raise ValueError(
                f"{field} is allocated, but the rates of {channel} are given and do not depend on it: leave it out, or"
                " use WirelessChannel."
            )
