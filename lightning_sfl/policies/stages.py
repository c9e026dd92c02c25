"""Tables of what every client would take at every cut: what solvers choose from. Asked of the world, so never apart."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import InfeasibleError
from lightning_sfl.policies.observation import Observation
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.world import Ends


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stages:
    """What a step takes, at every cut, (K, C).

    Attributes:
        up_s: A client's forward pass and its uplink, s1 + s2.
        server_s: The server's work for it, s3.
        back_s: Its downlink and its backward pass, s4 + s5.
    """

    up_s: FloatArray
    server_s: FloatArray
    back_s: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StageLines:
    """The same as functions of the batch size: what is fixed, and what every sample adds, (K, C) each.

    A quantiser's whole bytes make a step differ from the line by less than one byte per tensor.
    """

    fixed: Stages
    per_sample: Stages

    def at(self, batch_size: IntArray | FloatArray) -> Stages:
        """At every client's batch size, (K,)."""
        size = np.asarray(batch_size)[:, None]
        return Stages(
            **{
                field.name: getattr(self.fixed, field.name) + size * getattr(self.per_sample, field.name)
                for field in dataclasses.fields(Stages)
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EndStages:
    """What a round's beginning and end take.

    Attributes:
        broadcast_s: Sending a client its weights, (K, C).
        upload_s: Its upload of them, (K, C).
        own_s: What the line between the servers takes for one client, up to a constant: of two cuts, the difference is
            what the deeper one's layers take, (C,). All zero where the servers are one machine.
        whole_s: Where all of the server's layers are each client's own, what that line takes for the whole model, in
            the place of the deepest cut's; else None.
        aggregation_s: Averaging, if a cut is the deepest, (C,).
    """

    broadcast_s: FloatArray
    upload_s: FloatArray
    own_s: FloatArray
    whole_s: float | None
    aggregation_s: FloatArray

    def inter_server_s(self, cut: IntArray) -> float:
        """What the line between the servers takes, once."""
        last = self.own_s[cut.max()] if self.whole_s is None else self.whole_s
        return float(last * len(cut) - self.own_s[cut].sum())


def stages(seen: Observation, batch_size: IntArray) -> Stages:
    """The table of a step with these batches, (K,), at what clients are given now.

    Raises:
        ValueError: The cuts are those of a U-shape, whose turns are no part of it.
    """
    if seen.world.profile.returned_bit.any():
        raise ValueError("The cuts are the first ones of a U-shape; policies decide where there is one cut per client.")
    up, server, back = [], [], []
    for cut in range(len(seen.world.profile.cuts)):
        who = seen.participation(np.full(len(seen.clients), cut), batch_size)
        cost = seen.world.step(who, round=seen.round)
        up.append(cost.forward_s + cost.uplink_s)
        server.append(cost.server_s)
        back.append(cost.downlink_s + cost.backward_s)
    return Stages(up_s=np.stack(up, axis=1), server_s=np.stack(server, axis=1), back_s=np.stack(back, axis=1))


def stage_lines(seen: Observation) -> StageLines:
    """The table for all batch sizes, from those of 8 and of 16, which a quantiser's bits make whole bytes of.

    Where a rate is 0, it is not a number.
    """
    eight, sixteen = (stages(seen, np.full(len(seen.clients), size)) for size in (8, 16))
    with np.errstate(invalid="ignore"):
        slopes = {
            field.name: (getattr(sixteen, field.name) - getattr(eight, field.name)) / 8
            for field in dataclasses.fields(Stages)
        }
        fixed = {name: getattr(eight, name) - 8 * slope for name, slope in slopes.items()}
    return StageLines(fixed=Stages(**fixed), per_sample=Stages(**slopes))


def end_stages(seen: Observation) -> EndStages:
    """The tables of a round's beginning and end, at what clients are given now."""
    world, cuts = seen.world, len(seen.world.profile.cuts)
    broadcast, upload, own, aggregation = [], [], [], []
    rate = world.server.inter_server_bit_per_s
    for cut in range(cuts):
        who = seen.participation(np.full(len(seen.clients), cut))
        alone = Ends(optimizer_state=seen.sends_state, deepest=cut)
        broadcast.append(world.opening(who, alone, round=seen.round).broadcast_s)
        closing = world.closing(who, alone, round=seen.round)
        upload.append(closing.upload_s)
        aggregation.append(closing.aggregation_s)
        beside = world.round_load(who, Ends(optimizer_state=seen.sends_state, deepest=cuts - 1))
        own.append(0.0 if rate is None else -float(beside.inter_server_bit[0]) / rate)
    own_s = np.array(own)
    return EndStages(
        broadcast_s=np.stack(broadcast, axis=1),
        upload_s=np.stack(upload, axis=1),
        own_s=own_s,
        whole_s=0.0 if world.rule.server_replicas else None,
        aggregation_s=np.array(aggregation),
    )


def largest_batches(seen: Observation, most: int) -> IntArray:
    """The largest batch that a client has the memory and the samples for at every cut, (K, C); 0 where not even one.

    Raises:
        InfeasibleError: A client has the memory for one sample at no cut; it is named.
    """
    world, clients = seen.world, len(seen.clients)
    cuts = np.tile(np.arange(len(world.profile.cuts)), (clients, 1))
    held = world.fleet.memory_byte[seen.clients][:, None]
    low = np.zeros_like(cuts)
    high = np.broadcast_to(np.minimum(seen.samples, most)[:, None], cuts.shape).copy()
    while (low < high).any():  # what training takes only grows with the batch
        middle = (low + high + 1) // 2
        fits = (world.memory_at(cuts.ravel(), middle.ravel()).reshape(cuts.shape) <= held) & (middle > low)
        low, high = np.where(fits, middle, low), np.where(fits, high, np.maximum(middle - 1, low))
    if not (low > 0).any(axis=1).all():
        first = int((low > 0).any(axis=1).argmin())
        needed = world.memory_at(cuts[first], np.ones(cuts.shape[1], dtype=np.int64))
        least = int(needed.argmin())
        raise InfeasibleError(
            f"memory_byte={held[first, 0]:.0f} of client {seen.clients[first]} is too little: with one sample the cut"
            f" that takes least, {world.profile.cuts[least]!r}, takes {needed[least]:.0f}."
        )
    return low
