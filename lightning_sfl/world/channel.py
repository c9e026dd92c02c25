"""The channel: how long what is sent takes."""

import dataclasses
from typing import Protocol

from lightning_sfl.world.arrays import FloatArray, IntArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transmission:
    """Who sends when with what; entry i of every array is the i-th client.

    Attributes:
        clients: The clients that send or receive.
        round: The round.
        start_s: When each begins, in simulated seconds since the run's start.
        power_watt: Transmit power; None: what fleet and channel give.
        bandwidth_hz: Bandwidth; None: what the channel gives.
    """

    clients: IntArray
    round: int
    start_s: FloatArray
    power_watt: FloatArray | None = None
    bandwidth_hz: FloatArray | None = None


class Channel(Protocol):
    """Says how long bits take between clients and server. Zero bits take exactly 0 s."""

    @property
    def varies_within_round(self) -> bool:
        """Whether the same bits of the same client may take longer later in the same round."""
        ...

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Seconds from client to server."""
        ...

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Seconds from server to client."""
        ...

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """The rate as it is seen at the start."""
        ...

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """The rate as it is seen at the start."""
        ...

    def check(self, num_clients: int) -> None:
        """Raise a ValueError if the channel knows fewer clients."""
        ...
