"""The world: a model, a fleet, a channel and a server, asked what steps and rounds cost."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from lightning_sfl.link.message import MessageKind
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.channel.channel import Channel
from lightning_sfl.world.cost.load import RoundLoad, StepLoad, round_load, step_load, whole_of
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.probes import probing_memory_byte
from lightning_sfl.world.cost.round_cost import (
    ClosingCost,
    OpeningCost,
    RoundCost,
    closing_cost,
    opening_cost,
    round_cost,
)
from lightning_sfl.world.cost.rules import Rule, rule_of
from lightning_sfl.world.cost.step_cost import Machines, StepCost, step_cost
from lightning_sfl.world.devices.fleet import Fleet
from lightning_sfl.world.devices.server import Server
from lightning_sfl.world.model.profile import Profile


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ends:
    """What a round's beginning and end depend on besides who takes part. See ``load.round_load``.

    Attributes:
        optimizer_state: Whether optimizer state goes with the weights and is averaged.
        first: Whether it is a run's first round.
        previous_cut: Where each of those that take part cut in the round before, where layers that move are to be a
            stage of their own.
        deepest: The deepest cut of all registered clients; None: of those that take part.
        previous_deepest: The same for the round before; None: it did not move.
        missed_steps: The steps that each of those that take part was away from, where zeroth-order clients make up for
            them; None: from none.
    """

    optimizer_state: bool = True
    first: bool = False
    previous_cut: IntArray | None = None
    deepest: int | None = None
    previous_deepest: int | None = None
    missed_steps: IntArray | None = None


USUAL = Ends()
"""A round like the one before."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Says what steps and rounds cost.

    Attributes:
        profile: The model. In it, 1 multiply-accumulate is 2 FLOP.
        fleet: The clients' devices.
        channel: What lies between them and the server.
        server: The server.
        algorithm: The algorithm.
        aggregate_every: Steps of every participant between two aggregations.
        probes: Probes per step of zeroth-order clients; None for all other algorithms.
        flop_per_mac: 1 for speeds in FLOP/s that count a multiply-accumulate as one operation, as papers often do.
        quantised: Which of the N registered clients' messages of a kind go through a uniform quantiser, (N,) each: what
            bits per element are bits of. Of a kind that is left out, nobody's; None: all that cross at the cuts. What
            else codecs do to messages is not counted.
    """

    profile: Profile
    fleet: Fleet
    channel: Channel
    server: Server
    algorithm: str = "splitfed_shared"
    aggregate_every: int = 1
    probes: int | None = None
    flop_per_mac: Literal[1, 2] = 2
    quantised: Mapping[MessageKind, BoolArray] | None = None

    def __post_init__(self) -> None:
        rule_of(self.algorithm).check_probes(self.probes)
        if self.aggregate_every < 1:
            raise ValueError(f"aggregate_every={self.aggregate_every} is not accepted: it must be at least 1.")
        if self.flop_per_mac not in (1, 2):
            raise ValueError(f"flop_per_mac={self.flop_per_mac!r} is not accepted: a multiply-accumulate is 1 or 2.")

    def check(self, num_clients: int) -> None:
        """Raise a ValueError unless there is a device and a channel for each of ``num_clients``."""
        self.fleet.check(num_clients)
        self.channel.check(num_clients)

    def step(self, who: Participation, *, round: int = 0, start_s: float | FloatArray = 0.0) -> StepCost:
        """What one mini-batch of every client costs."""
        load = self.step_load(who)
        return step_cost(load, self.machines, self.rule, who.controls, round=round, start_s=start_s)

    def opening(self, who: Participation, ends: Ends = USUAL, *, round: int = 0, start_s: float = 0.0) -> OpeningCost:
        """What a round's beginning costs."""
        load = self.round_load(who, ends)
        return opening_cost(load, self.machines, self.rule, who.controls, round=round, start_s=start_s)

    def closing(
        self, who: Participation, ends: Ends = USUAL, *, round: int = 0, start_s: float | FloatArray = 0.0
    ) -> ClosingCost:
        """What a round's end costs."""
        load = self.round_load(who, ends)
        return closing_cost(load, self.machines, self.rule, who.controls, round=round, start_s=start_s)

    def round(self, who: Participation, ends: Ends = USUAL, *, round: int = 0, start_s: float = 0.0) -> RoundCost:
        """What a whole round costs, ``aggregate_every`` mini-batches of every client and what is sent before and after.

        A round of ``split_learning`` is one client's turn.
        """
        if self.rule.hands_on and len(who.clients) > 1:
            raise ValueError(
                f"clients={who.clients!r} is not accepted: a round of {self.algorithm} is one client's turn."
            )
        return round_cost(
            self.step_load(who),
            self.round_load(who, ends),
            self.machines,
            self.rule,
            who.controls,
            steps=self.aggregate_every,
            round=round,
            start_s=start_s,
        )

    def step_load(self, who: Participation) -> StepLoad:
        """What one mini-batch of every client asks."""
        self._check(who)
        load = step_load(
            self.profile,
            cut=who.cut,
            batch_size=who.batch_size,
            clients=who.clients,
            algorithm=self.algorithm,
            bits=who.bits,
            quantised=None
            if self.quantised is None
            else {kind: whose[who.clients] for kind, whose in self.quantised.items()},
            probes=self.probes,
        )
        scale = self.flop_per_mac / 2
        return dataclasses.replace(
            load,
            client_forward_flop=scale * load.client_forward_flop,
            client_backward_flop=scale * load.client_backward_flop,
            server_flop=scale * load.server_flop,
            turn_flop=scale * load.turn_flop,
            return_flop=scale * load.return_flop,
        )

    def round_load(self, who: Participation, ends: Ends = USUAL) -> RoundLoad:
        """What a round's beginning and end ask."""
        self._check(who)
        cuts = len(self.profile.cuts)
        if ends.previous_cut is not None:
            who.check_shape("previous_cut", ends.previous_cut)
            known = (ends.previous_cut >= 0) & (ends.previous_cut < cuts)
            who.refuse("previous_cut", ends.previous_cut, known, f"one of {cuts} cuts, counted from 0")
        for name in ("deepest", "previous_deepest"):
            cut = getattr(ends, name)
            if cut is not None and not 0 <= cut < cuts:
                raise ValueError(f"{name}={cut} is not accepted: it must be one of {cuts} cuts, counted from 0.")
        load = round_load(
            self.profile,
            cut=who.cut,
            clients=who.clients,
            algorithm=self.algorithm,
            optimizer_state=ends.optimizer_state,
            first=ends.first,
            previous_cut=ends.previous_cut,
            deepest=ends.deepest,
            previous_deepest=ends.previous_deepest,
            missed_steps=ends.missed_steps,
            probes=self.probes,
        )
        return dataclasses.replace(load, aggregation_flop=self.flop_per_mac / 2 * load.aggregation_flop)

    def memory_at(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """What training takes at most of the memory of clients that cut there, (K,)."""
        if not self.rule.uses_cut:
            return whole_of(self.profile).training_memory_byte(np.zeros_like(cut), batch_size)
        if self.rule.probing is not None:
            return probing_memory_byte(self.profile, self.rule.probing, cut, batch_size)
        return self.profile.training_memory_byte(cut, batch_size)

    def memory_byte(self, batch_size: IntArray) -> FloatArray:
        """What training takes at most of a client's memory: one row per batch size, one column per cut."""
        sizes, place = np.unique(batch_size, return_inverse=True)
        cuts = np.arange(len(self.profile.cuts))
        byte = self.memory_at(np.tile(cuts, len(sizes)), np.repeat(sizes, len(cuts)))
        found: FloatArray = byte.reshape(len(sizes), len(cuts))[place]
        return found

    def feasible(self, clients: IntArray, batch_size: IntArray) -> BoolArray:
        """At which cuts each client has the memory to train: one row per client, one column per cut.

        Raises:
            ValueError: A client has it at no cut; the client and the cut that takes least are named.
        """
        needed = self.memory_byte(batch_size)
        held = self.fleet.memory_byte[clients]
        fits = needed <= held[:, None]
        if not fits.any(axis=1).all():
            first = int(fits.any(axis=1).argmin())
            least = int(needed[first].argmin())
            where = f"at the cut that takes least, {self.profile.cuts[least]!r}," if self.rule.uses_cut else "here"
            raise ValueError(
                f"memory_byte={held[first]:.0f} of client {clients[first]} is too little: {self.algorithm} with"
                f" batch_size={batch_size[first]} takes {needed[first, least]:.0f} {where} so it fits nowhere. Accepted"
                " is a smaller batch size or more memory."
            )
        return fits

    @property
    def rule(self) -> Rule:
        """What its algorithm does."""
        return rule_of(self.algorithm)

    @property
    def machines(self) -> Machines:
        """Who computes, and what lies between them."""
        return Machines(fleet=self.fleet, channel=self.channel, server=self.server)

    def _check(self, who: Participation) -> None:
        """Raise a ValueError for clients, cuts and controls that there are not."""
        fleet, controls = self.fleet, who.controls
        devices, cuts = len(fleet.clock_hz), len(self.profile.cuts)
        known = (who.clients >= 0) & (who.clients < devices)
        who.refuse("clients", who.clients, known, f"one of the fleet's {devices} devices, counted from 0")
        if self.rule.uses_cut:
            who.refuse("cut", who.cut, (who.cut >= 0) & (who.cut < cuts), f"one of {cuts} cuts, counted from 0")
        if (power := controls.power_watt) is not None:
            most = fleet.transmit_power_watt[who.clients]
            who.refuse("power_watt", power, (power > 0) & ~(power > most), "above 0 and at most its device's")
        if (bandwidth := controls.bandwidth_hz) is not None:
            who.refuse("bandwidth_hz", bandwidth, (bandwidth > 0) & np.isfinite(bandwidth), "above 0 and finite")
