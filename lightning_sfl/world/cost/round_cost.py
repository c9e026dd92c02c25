"""What a round costs: its beginning, its steps and its end."""

import dataclasses
import functools
import math

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.channel.channel import Transmission
from lightning_sfl.world.cost.load import RoundLoad, StepLoad
from lightning_sfl.world.cost.rules import Rule
from lightning_sfl.world.cost.step_cost import (
    AS_BUILT,
    Controls,
    Machines,
    StepCost,
    seconds_of,
    step_cost,
    steps_in_turn,
    uplink,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OpeningCost:
    """What a round's beginning costs; entry i of every array is the i-th of those that take part.

    Attributes:
        load: What it asks.
        rule: The algorithm's.
        broadcast_s: Sending the weights to a client.
        resplit_s: Sending layers because its cut moved.
        inter_server_s: Sending layers between the servers, while the weights are sent to clients.
        radio_joule: What the client's sending takes.
        server_radio_joule: What the server's sending takes.
    """

    load: RoundLoad
    rule: Rule
    broadcast_s: FloatArray
    resplit_s: FloatArray
    inter_server_s: float
    radio_joule: FloatArray
    server_radio_joule: float

    @property
    def clients(self) -> IntArray:
        """Who takes part."""
        return self.load.clients

    @property
    def client_s(self) -> FloatArray:
        """What each client's own stages take."""
        return self.broadcast_s + self.resplit_s

    @functools.cached_property
    def sent_s(self) -> float:
        """When all weights are where they belong, from the beginning."""
        return max(float(self.broadcast_s.max()), self.inter_server_s)

    @functools.cached_property
    def total_s(self) -> float:
        """What it takes: max{downloads} (HASFL, arXiv 2506.08426, a reconstruction), then layers that move."""
        return self.sent_s + float(self.resplit_s.max())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClosingCost:
    """What a round's end costs; entry i of every array is the i-th of those that take part.

    Attributes:
        load: What it asks.
        rule: The algorithm's.
        upload_s: A client's upload of its weights.
        inter_server_s: Sending layers between the servers meanwhile.
        aggregation_s: Averaging.
        radio_joule: What the client's sending takes.
        server_compute_joule: What averaging takes.
    """

    load: RoundLoad
    rule: Rule
    upload_s: FloatArray
    inter_server_s: float
    aggregation_s: float
    radio_joule: FloatArray
    server_compute_joule: float

    @property
    def clients(self) -> IntArray:
        """Who takes part."""
        return self.load.clients

    @property
    def client_s(self) -> FloatArray:
        """What each client's own stages take."""
        return self.upload_s

    @functools.cached_property
    def sent_s(self) -> float:
        """When all uploads are there, from the beginning."""
        return max(float(self.upload_s.max()), self.inter_server_s)

    @functools.cached_property
    def total_s(self) -> float:
        """What it takes: max{client upload, server non-common upload}, then averaging.

        HASFL, arXiv 2506.08426 (a reconstruction), in which averaging takes no time.
        """
        return self.sent_s + self.aggregation_s


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoundCost:
    """What a whole round costs.

    Attributes:
        opening: Its beginning.
        steps: Its steps. Where clients are served one by one, a step is a mini-batch of each of them, and each has all
            of its mini-batches before the next client.
        closing: Its end.
    """

    opening: OpeningCost
    steps: tuple[StepCost, ...]
    closing: ClosingCost

    @property
    def rule(self) -> Rule:
        """The algorithm's."""
        return self.opening.rule

    @property
    def clients(self) -> IntArray:
        """Who takes part."""
        return self.opening.clients

    @functools.cached_property
    def client_s(self) -> FloatArray:
        """What each client's own stages take."""
        total: FloatArray = sum((cost.client_s for cost in self._parts), np.zeros(len(self.clients)))
        return total

    @functools.cached_property
    def total_s(self) -> float:
        """What it takes: beginning, steps and end, one after the other.

        Clients without a cut do not wait for each other before the average: the longest of what each one takes.
        """
        if not self.rule.uses_cut:
            return float(self.client_s.max()) + self.closing.aggregation_s
        return math.fsum(cost.total_s for cost in self._parts)

    @property
    def straggler(self) -> int:
        """The client whose own stages take longest."""
        return int(self.clients[self.client_s.argmax()])

    @functools.cached_property
    def compute_joule(self) -> FloatArray:
        """What each client's computing takes."""
        total: FloatArray = sum((cost.compute_joule for cost in self.steps), np.zeros(len(self.clients)))
        return total

    @functools.cached_property
    def radio_joule(self) -> FloatArray:
        """What each client's sending takes."""
        total: FloatArray = sum((cost.radio_joule for cost in self._parts), np.zeros(len(self.clients)))
        return total

    @property
    def server_compute_joule(self) -> float:
        """What the server's computing takes."""
        return sum(cost.server_compute_joule for cost in self.steps) + self.closing.server_compute_joule

    @property
    def server_radio_joule(self) -> float:
        """What the server's sending takes."""
        return self.opening.server_radio_joule + sum(cost.server_radio_joule for cost in self.steps)

    @property
    def _parts(self) -> tuple[OpeningCost | StepCost | ClosingCost, ...]:
        """All of it, in order of time."""
        return (self.opening, *self.steps, self.closing)


def opening_cost(
    load: RoundLoad,
    machines: Machines,
    rule: Rule,
    controls: Controls = AS_BUILT,
    *,
    round: int = 0,
    start_s: float = 0.0,
) -> OpeningCost:
    """What a round's beginning costs. See :func:`lightning_sfl.world.cost.step_cost` for the arguments."""
    fleet, channel, server = machines.fleet, machines.channel, machines.server
    clients = load.clients
    inter_server_s = _inter_server_s(machines, float(load.inter_server_bit.sum()) + load.handover_bit)
    begins_s = np.full(len(clients), start_s)
    broadcast_s = seconds_of(
        channel.downlink_s, load.broadcast_bit, Transmission(clients=clients, round=round, start_s=begins_s)
    )
    moves_s = begins_s + max(float(broadcast_s.max()), inter_server_s)
    up_s = seconds_of(channel.uplink_s, load.resplit_up_bit, uplink(clients, round, moves_s, controls))
    down_s = seconds_of(
        channel.downlink_s, load.resplit_down_bit, Transmission(clients=clients, round=round, start_s=moves_s)
    )
    power_watt = fleet.transmit_power_watt[clients] if controls.power_watt is None else controls.power_watt
    return OpeningCost(
        load=load,
        rule=rule,
        broadcast_s=broadcast_s,
        resplit_s=up_s + down_s,
        inter_server_s=inter_server_s,
        radio_joule=power_watt * up_s,
        server_radio_joule=float(server.transmit_power_watt * (broadcast_s + down_s).sum()),
    )


def closing_cost(
    load: RoundLoad,
    machines: Machines,
    rule: Rule,
    controls: Controls = AS_BUILT,
    *,
    round: int = 0,
    start_s: float | FloatArray = 0.0,
) -> ClosingCost:
    """What a round's end costs. See :func:`lightning_sfl.world.cost.step_cost` for the arguments."""
    fleet, channel, server = machines.fleet, machines.channel, machines.server
    clients = load.clients
    begins_s = np.full(len(clients), start_s)
    upload_s = seconds_of(channel.uplink_s, load.update_bit, uplink(clients, round, begins_s, controls))
    aggregation_s = float(load.aggregation_flop.sum() / server.flop_per_s())
    power_watt = fleet.transmit_power_watt[clients] if controls.power_watt is None else controls.power_watt
    return ClosingCost(
        load=load,
        rule=rule,
        upload_s=upload_s,
        inter_server_s=_inter_server_s(machines, float(load.inter_server_bit.sum())),
        aggregation_s=aggregation_s,
        radio_joule=power_watt * upload_s,
        server_compute_joule=float(server.compute_watt() * aggregation_s),
    )


def round_cost(
    step: StepLoad,
    ends: RoundLoad,
    machines: Machines,
    rule: Rule,
    controls: Controls = AS_BUILT,
    *,
    steps: int,
    round: int = 0,
    start_s: float = 0.0,
) -> RoundCost:
    """What a whole round costs: its beginning, ``steps`` mini-batches of every client, its end.

    Args:
        step: What one mini-batch of every client asks.
        ends: What the round's beginning and end ask.
        machines: Who computes.
        rule: The algorithm's.
        controls: What the clients are given.
        steps: Mini-batches of every client.
        round: The round.
        start_s: When it begins, in simulated seconds since the run's start.
    """
    opening = opening_cost(ends, machines, rule, controls, round=round, start_s=start_s)
    opened_s = start_s + opening.total_s
    costs: tuple[StepCost, ...]
    if not rule.uses_cut:
        begins_s = start_s + opening.client_s
        one = step_cost(step, machines, rule, controls, round=round, start_s=begins_s)
        closes_s: float | FloatArray = begins_s + steps * one.client_s
        costs = (one,) * steps  # nothing is sent in between that could take longer later
    elif not machines.channel.varies_within_round:
        one = step_cost(step, machines, rule, controls, round=round, start_s=opened_s)
        closes_s = opened_s + steps * one.total_s
        costs = (one,) * steps
    elif rule.one_by_one:
        costs = steps_in_turn(step, machines, rule, controls, steps=steps, round=round, start_s=opened_s)
        closes_s = opened_s + sum(cost.total_s for cost in costs)
    else:
        closes_s, found = opened_s, []
        for _ in range(steps):
            found.append(step_cost(step, machines, rule, controls, round=round, start_s=closes_s))
            closes_s += found[-1].total_s
        costs = tuple(found)
    closing = closing_cost(ends, machines, rule, controls, round=round, start_s=closes_s)
    return RoundCost(opening=opening, steps=costs, closing=closing)


def _inter_server_s(machines: Machines, bit: float) -> float:
    """One line between the two servers carries everything; no time where they are one machine."""
    rate = machines.server.inter_server_bit_per_s
    return 0.0 if rate is None else bit / rate
