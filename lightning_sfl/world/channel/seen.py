"""A channel as it is seen when a decision is due, which may be stale when bits are sent."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.channel.channel import Channel, Transmission
from lightning_sfl.world.channel.fading import Direction, Static
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import WirelessChannel

CSI = Literal["instantaneous", "statistical"]
"""Channel state information: what is known of a channel when a decision is due, its state at the instant or its mean.

The state of the instant is right for as long as the gain stays; where it changes before the bits are sent, the mean is
the better guess.
"""

_LEAST_BIT_PER_S = 1.0  # of a recorded rate that is 0 at this instant


def check_csi(csi: str) -> None:
    """Raise a ValueError for what is no channel state information."""
    if csi not in get_args(CSI):
        raise ValueError(f"csi={csi!r} is not accepted: give one of {', '.join(map(repr, get_args(CSI)))}.")


def as_seen(channel: Channel, num_clients: int, *, round: int, start_s: float, csi: CSI = "instantaneous") -> Channel:
    """The steady channel that a decision is made on.

    By instantaneous state information, a wireless channel keeps its bandwidth and powers, which can be allocated, and
    has the gains of an instant; any other has the rates of that instant, of which one of 0 is taken for 1 bit/s; for
    the first clients. By statistical information it has the means of all time, for all clients.

    Args:
        channel: The channel.
        num_clients: How many of the clients are asked about, from 0 on.
        round: The round.
        start_s: The instant, in simulated seconds since the run's start.
        csi: What is known of it.
    """
    if csi == "statistical":
        return channel.on_average()
    seen = Transmission(clients=np.arange(num_clients), round=round, start_s=np.full(num_clients, start_s))
    if not isinstance(channel, WirelessChannel):
        return RateChannel(
            mean_uplink_bit_per_s=np.maximum(channel.uplink_bit_per_s(seen), _LEAST_BIT_PER_S),
            mean_downlink_bit_per_s=np.maximum(channel.downlink_bit_per_s(seen), _LEAST_BIT_PER_S),
        )
    block = int(channel.fading.block(round, seen.start_s)[0])

    def faded(gain: FloatArray, direction: Direction) -> FloatArray:
        found: FloatArray = gain[:num_clients] * channel.fading.factor(direction, seen.clients, block)
        return found

    return dataclasses.replace(
        channel,
        uplink_gain=faded(channel.uplink_gain, "uplink"),
        downlink_gain=faded(channel.downlink_gain, "downlink"),
        client_power_watt=channel.client_power_watt[:num_clients],
        fading=Static(),
    )
