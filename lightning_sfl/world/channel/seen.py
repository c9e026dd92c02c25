"""A channel as it is seen at one instant: what a decision is made on, which may be stale when bits are sent."""

import dataclasses

import numpy as np

from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.channel.channel import Channel, Transmission
from lightning_sfl.world.channel.fading import Direction, Static
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import WirelessChannel

_LEAST_BIT_PER_S = 1.0  # of a recorded rate that is 0 at this instant


def as_seen(channel: Channel, num_clients: int, *, round: int, start_s: float) -> Channel:
    """The channel that stays as this one is at an instant, for clients from 0 on.

    A wireless channel keeps its bandwidth and powers, which can be allocated, and has the gains of that instant. Any
    other has the rates of that instant, of which one of 0 is taken for 1 bit/s.

    Args:
        channel: The channel.
        num_clients: For how many clients.
        round: The round.
        start_s: The instant, in simulated seconds since the run's start.
    """
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
