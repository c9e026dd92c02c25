"""What a step costs: seconds of every stage and joules, client by client."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.channel.channel import Channel, Transmission
from lightning_sfl.world.cost.load import StepLoad
from lightning_sfl.world.cost.rules import Rule
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Machines:
    """Who computes, and what lies between them."""

    fleet: Fleet
    channel: Channel
    server: Server


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Controls:
    """What those that take part are given; entry i of every array is the i-th. None: what fleet and channel give.

    Attributes:
        power_watt: Transmit power.
        clock_hz: CPU clock.
        bandwidth_hz: Bandwidth of the uplink.
    """

    power_watt: FloatArray | None = None
    clock_hz: FloatArray | None = None
    bandwidth_hz: FloatArray | None = None

    def of(self, entries: IntArray) -> "Controls":
        """What some of them are given."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Controls(**{name: None if value is None else value[entries] for name, value in given.items()})


AS_BUILT = Controls()
"""Everybody at full clock and power."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StepCost:
    """What one step costs; entry i of every array is the i-th of those that take part. Not modelled: NaN.

    Attributes:
        load: What it asks.
        rule: How its stages follow each other.
        serial: Whether the server serves one client after the other.
        forward_s: Client forward, s1.
        uplink_s: Uplink, s2.
        server_s: The server's forward and backward for this client, s3; in a U-shape forward alone.
        turn_down_s: In a U-shape, sending the client what the server gives back; 0 elsewhere, like the next three.
        turn_s: The client's part from there to the loss, and back.
        turn_up_s: Sending the server the gradient of that.
        return_s: The server's backward pass for this client.
        downlink_s: Downlink, s4.
        backward_s: Client backward, s5.
        compute_joule: What the client's computing takes.
        radio_joule: What its sending takes.
        server_compute_joule: What the server's computing takes.
        server_radio_joule: What its sending takes.
    """

    load: StepLoad
    rule: Rule
    serial: bool
    forward_s: FloatArray
    uplink_s: FloatArray
    server_s: FloatArray
    turn_down_s: FloatArray
    turn_s: FloatArray
    turn_up_s: FloatArray
    return_s: FloatArray
    downlink_s: FloatArray
    backward_s: FloatArray
    compute_joule: FloatArray
    radio_joule: FloatArray
    server_compute_joule: float
    server_radio_joule: float

    @property
    def clients(self) -> IntArray:
        """Who takes part."""
        return self.load.clients

    @functools.cached_property
    def client_s(self) -> FloatArray:
        """What each client's own stages take."""
        turn: FloatArray = self.turn_down_s + self.turn_s + self.turn_up_s
        return self.forward_s + self.uplink_s + turn + self.downlink_s + self.backward_s

    @functools.cached_property
    def up_s(self) -> float:
        """When the last client's smashed data are there, from the step's start, where all work at once."""
        return float((self.forward_s + self.uplink_s).max())

    @functools.cached_property
    def served_s(self) -> float:
        """What the server takes for all of them, in a U-shape before they turn."""
        return _together(self.server_s, serial=self.serial)

    @functools.cached_property
    def turned_s(self) -> float:
        """What the longest turn takes, in a U-shape."""
        return float((self.turn_down_s + self.turn_s + self.turn_up_s).max())

    @functools.cached_property
    def returned_s(self) -> float:
        """What the server takes for all of them after they turned."""
        return _together(self.return_s, serial=self.serial)

    @functools.cached_property
    def total_s(self) -> float:
        """What the step takes.

        All at once: T = max(s1 + s2) + Σ s3 + max(s4 + s5) (Wei & Chen 2026, eqs. 1-10), or max s3 where the server
        serves all at once. In a U-shape the longest turn and the server's backward pass come in between, in the same
        form (our extension). One after the other: the sum of everything. Without a cut: the longest s1 + s5.
        """
        if self.rule.one_by_one:
            return float((self.client_s + self.server_s + self.return_s).sum())
        if not self.rule.uses_cut:
            return float(self.client_s.max())
        back_s = float((self.downlink_s + self.backward_s).max())
        return self.up_s + self.served_s + self.turned_s + self.returned_s + back_s

    @property
    def straggler(self) -> int:
        """The client whose own stages take longest."""
        return int(self.clients[self.client_s.argmax()])


def step_cost(
    load: StepLoad,
    machines: Machines,
    rule: Rule,
    controls: Controls = AS_BUILT,
    *,
    round: int = 0,
    start_s: float | FloatArray = 0.0,
) -> StepCost:
    """What one mini-batch of every client costs.

    Stage times are operations by speed and bits by rate, energy is G f³ t for computing and P t for sending (Wei & Chen
    2026, eqs. 1-10). A client sends when its forward pass ends. The server sends to all when it has served the last, or
    to each one in its turn; who has a turn has the channel alone.

    Args:
        load: What the step asks.
        machines: Who computes.
        rule: The algorithm's.
        controls: What the clients are given.
        round: The round.
        start_s: When the step begins, in simulated seconds since the run's start; where clients do not meet between
            aggregations, when each of them does.
    """
    if rule.one_by_one and len(load.clients) > 1:
        return steps_in_turn(load, machines, rule, controls, steps=1, round=round, start_s=float(np.max(start_s)))[0]
    fleet, channel, server = machines.fleet, machines.channel, machines.server
    clients = load.clients
    flop_per_s = fleet.flop_per_s(clients, controls.clock_hz, round)
    forward_s = load.client_forward_flop / flop_per_s
    backward_s = load.client_backward_flop / flop_per_s
    server_s = load.server_flop / server.flop_per_s()
    serial = server.works == "serial"
    power_watt = fleet.transmit_power_watt[clients] if controls.power_watt is None else controls.power_watt
    starts_s = start_s + forward_s
    uplink_s = seconds_of(channel.uplink_s, load.uplink_bit, uplink(clients, round, starts_s, controls))
    served_s = float((starts_s + uplink_s).max()) + _together(server_s, serial=serial)
    turn_down_s = seconds_of(channel.downlink_s, load.turn_down_bit, _down(clients, round, served_s))
    turn_s = load.turn_flop / flop_per_s
    turns_s = served_s + turn_down_s + turn_s
    turn_up_s = seconds_of(channel.uplink_s, load.turn_up_bit, uplink(clients, round, turns_s, controls))
    return_s = load.return_flop / server.flop_per_s()
    returned_s = float((turns_s + turn_up_s).max()) + _together(return_s, serial=serial)
    downlink_s = seconds_of(channel.downlink_s, load.downlink_bit, _down(clients, round, returned_s))
    return StepCost(
        load=load,
        rule=rule,
        serial=serial,
        forward_s=forward_s,
        uplink_s=uplink_s,
        server_s=server_s,
        turn_down_s=turn_down_s,
        turn_s=turn_s,
        turn_up_s=turn_up_s,
        return_s=return_s,
        downlink_s=downlink_s,
        backward_s=backward_s,
        compute_joule=fleet.compute_watt(clients, controls.clock_hz) * (forward_s + turn_s + backward_s),
        radio_joule=power_watt * (uplink_s + turn_up_s),
        server_compute_joule=float(server.compute_watt() * (server_s + return_s).sum()),
        server_radio_joule=float(server.transmit_power_watt * (downlink_s + turn_down_s).sum()),
    )


def _together(seconds: FloatArray, *, serial: bool) -> float:
    """What the server takes for everybody: one after the other, or all at once."""
    return float(seconds.sum() if serial else seconds.max())


def _down(clients: IntArray, round: int, start_s: float) -> Transmission:
    return Transmission(clients=clients, round=round, start_s=np.full(len(clients), start_s))


def uplink(clients: IntArray, round: int, start_s: FloatArray, controls: Controls) -> Transmission:
    """Clients that send from these instants on, with what they are given."""
    return Transmission(
        clients=clients,
        round=round,
        start_s=start_s,
        power_watt=controls.power_watt,
        bandwidth_hz=controls.bandwidth_hz,
    )


def steps_in_turn(
    load: StepLoad,
    machines: Machines,
    rule: Rule,
    controls: Controls = AS_BUILT,
    *,
    steps: int,
    round: int = 0,
    start_s: float = 0.0,
) -> tuple[StepCost, ...]:
    """What several mini-batches of every client cost where each client has all of its before the next one.

    Returns:
        One cost per mini-batch of all clients; what the arrays hold of a client is as of when its turn was.
    """
    now_s = start_s
    turns: list[list[StepCost]] = []
    for place in range(len(load.clients)):
        entry = np.array([place])
        turn: list[StepCost] = []
        for _ in range(steps):
            turn.append(step_cost(load.of(entry), machines, rule, controls.of(entry), round=round, start_s=now_s))
            now_s += turn[-1].total_s
        turns.append(turn)
    return tuple(_joined(load, of_step) for of_step in zip(*turns, strict=True))


def seconds_of(
    send: Callable[[FloatArray, Transmission], FloatArray], bit: FloatArray, sent: Transmission
) -> FloatArray:
    """What sending takes; nothing where there is nothing to send.

    The channel is not asked about those who have nothing to send: they take no part of a band that others share.
    """
    senders = np.flatnonzero(bit > 0)
    if len(senders) == len(bit):
        return send(bit, sent)
    seconds = np.zeros(len(bit))
    if len(senders):
        own = Transmission(
            clients=sent.clients[senders],
            round=sent.round,
            start_s=sent.start_s[senders],
            power_watt=None if sent.power_watt is None else sent.power_watt[senders],
            bandwidth_hz=None if sent.bandwidth_hz is None else sent.bandwidth_hz[senders],
        )
        seconds[senders] = send(bit[senders], own)
    return seconds


def _joined(load: StepLoad, costs: Sequence[StepCost]) -> StepCost:
    """One cost of those that cost one client each."""
    arrays = {
        field.name: np.concatenate([getattr(cost, field.name) for cost in costs])
        for field in dataclasses.fields(StepCost)
        if field.name.endswith("_s") or field.name in ("compute_joule", "radio_joule")
    }
    return StepCost(
        load=load,
        rule=costs[0].rule,
        serial=costs[0].serial,
        **arrays,
        server_compute_joule=sum(cost.server_compute_joule for cost in costs),
        server_radio_joule=sum(cost.server_radio_joule for cost in costs),
    )
