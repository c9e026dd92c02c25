"""What a step and a round ask of everybody, in operations and bits: pure functions of the profile and the cuts."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.link.message import MessageKind
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.probes import depth_of, missed_bit, probed
from lightning_sfl.world.cost.rules import rule_of
from lightning_sfl.world.model.profile import Profile, at

_AT_CUTS = {
    "smashed": MessageKind.SMASHED,
    "cut_gradient": MessageKind.CUT_GRADIENT,
    "returned": MessageKind.SERVER_OUTPUT,
    "returned_gradient": MessageKind.OUTPUT_GRADIENT,
}
"""What crosses at the cuts, by the profile's names for it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StepLoad:
    """What one step asks; entry i of every array is the i-th of those that take part. 0 where a stage does not exist.

    Attributes:
        clients: Who takes part.
        client_forward_flop: Before the uplink.
        client_backward_flop: After the downlink; a zeroth-order client's probes.
        server_flop: Forward and backward, for this client's batch; in a U-shape forward alone.
        uplink_bit: Payload up.
        downlink_bit: Payload down.
        turn_down_bit: In a U-shape, what the server gives back at the second cut.
        turn_flop: The client's part from there to the loss, and back.
        turn_up_bit: The gradient of what it was given.
        return_flop: The server's backward pass then.
    """

    clients: IntArray
    client_forward_flop: FloatArray
    client_backward_flop: FloatArray
    server_flop: FloatArray
    uplink_bit: FloatArray
    downlink_bit: FloatArray
    turn_down_bit: FloatArray
    turn_flop: FloatArray
    turn_up_bit: FloatArray
    return_flop: FloatArray

    def of(self, entries: IntArray) -> "StepLoad":
        """The load of some of them."""
        return StepLoad(**{field.name: getattr(self, field.name)[entries] for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoundLoad:
    """What a round's beginning and end ask; entry i of every array is the i-th of those that take part.

    Attributes:
        clients: Who takes part.
        update_bit: What a client uploads at the end.
        broadcast_bit: What it is sent at the beginning.
        resplit_up_bit: Layers that it uploads then because its cut has become shallower.
        resplit_down_bit: Layers that it is sent then because its cut has become deeper.
        inter_server_bit: The client's own layers on the server, to the federation server at the end, back at the
            beginning.
        handover_bit: Layers that the two servers exchange at the beginning because the deepest cut moved.
        aggregation_flop: Averaging, per client averaged.
    """

    clients: IntArray
    update_bit: FloatArray
    broadcast_bit: FloatArray
    resplit_up_bit: FloatArray
    resplit_down_bit: FloatArray
    inter_server_bit: FloatArray
    handover_bit: float
    aggregation_flop: FloatArray


def step_load(
    profile: Profile,
    *,
    cut: IntArray,
    batch_size: IntArray,
    clients: IntArray,
    algorithm: str,
    bits: FloatArray | None = None,
    quantised: Mapping[MessageKind, BoolArray] | None = None,
    probes: int | None = None,
) -> StepLoad:
    """What one mini-batch of every client asks.

    Without a cut (``fedavg``) the client computes the whole model, whatever ``cut`` says, and nothing crosses. A
    HO-SFL client runs 1 + P times forward and never backward, and uplink and downlink carry P scalars and P seeds
    besides (arXiv 2603.14773; the cost model is a reconstruction). Its scalars, which cross after the probes, are
    counted with the smashed data, and the mean that comes back with the cut gradient. Where nothing before the cut is
    trained it has nothing to probe. Its relatives: :mod:`~lightning_sfl.world.cost.probes`; an auxiliary head's work is
    not counted.

    Args:
        profile: The model.
        cut: Each client's cut, an index into the profile's cuts.
        batch_size: Its samples.
        clients: Who they are.
        algorithm: The algorithm.
        bits: Bits per element of a uniform quantiser for what crosses at the cuts, 32 for those without; None:
            everything as computed.
        quantised: Whose messages of a kind go through the quantiser, (K,) each; of a kind that is left out, nobody's.
            None: all that cross at the cuts.
        probes: P, for zeroth-order clients.
    """
    rule = rule_of(algorithm)
    rule.check_probes(probes)
    if not rule.uses_cut:
        whole, nothing = whole_of(profile), np.zeros(len(clients))
        return StepLoad(
            clients=clients,
            client_forward_flop=at(whole.client_forward_flop[0], batch_size),
            client_backward_flop=at(whole.client_backward_flop[0], batch_size),
            server_flop=nothing,
            uplink_bit=nothing,
            downlink_bit=nothing,
            turn_down_bit=nothing,
            turn_flop=nothing,
            turn_up_bit=nothing,
            return_flop=nothing,
        )
    forward = at(profile.client_forward_flop[cut], batch_size)
    backward = at(profile.client_backward_flop[cut], batch_size)
    server = at(profile.server_forward_flop[cut], batch_size)
    server_backward = at(profile.server_backward_flop[cut], batch_size)
    turns = at(profile.returned_bit[cut], batch_size) > 0
    crossing = {
        name: _crossing_bit(profile, name, cut, batch_size, _bits_of(kind, bits, quantised))
        for name, kind in _AT_CUTS.items()
    }
    uplink, downlink = crossing["smashed"], crossing["cut_gradient"]
    trains = downlink > 0
    if rule.probing is not None and probes is not None:
        asked = probed(rule.probing, probes, trains, depth_of(cut))
        forward, backward = asked.forward * forward, asked.later * forward  # of one pass, both
        server, server_backward = asked.forward * server, asked.server_backward * server_backward
        uplink = asked.sent * uplink + asked.uplink_bit
        downlink = asked.gradient * downlink + asked.downlink_bit
    uplink = uplink + at(profile.beside_bit[cut], batch_size)
    return StepLoad(
        clients=clients,
        client_forward_flop=forward,
        client_backward_flop=backward,
        server_flop=server + np.where(turns, 0.0, server_backward),
        uplink_bit=uplink,
        downlink_bit=downlink,
        turn_down_bit=crossing["returned"],
        turn_flop=at(profile.turn_flop[cut], batch_size),
        turn_up_bit=crossing["returned_gradient"],
        return_flop=np.where(turns, server_backward, 0.0),
    )


def round_load(
    profile: Profile,
    *,
    cut: IntArray,
    clients: IntArray,
    algorithm: str,
    optimizer_state: bool = True,
    first: bool = False,
    previous_cut: IntArray | None = None,
    deepest: int | None = None,
    previous_deepest: int | None = None,
    missed_steps: IntArray | None = None,
    probes: int | None = None,
) -> RoundLoad:
    """What a round's beginning and end ask.

    A client is sent its layers at the cut of the round and uploads them at the end, so where a cut has moved, the
    layers that moved are in the broadcast. Given ``previous_cut``, they are a stage of their own, as in ASFL (arXiv
    2603.04437; a reconstruction): the broadcast ends the round before, at the cut that was in force; then a client
    whose cut is deeper now is sent the layers it lacks (together the same bits as one broadcast), and one whose cut is
    shallower uploads the layers it gives up.

    A client's own layers on the server, those between its cut and the deepest (non-common in HASFL, arXiv 2506.08426;
    ``splitfed_v1``: all the server's), travel between the servers. Their bits are what the client shard at the deepest
    cut (the whole model) has more. Averaging takes a multiplication and an addition per trained parameter of theirs;
    optimizer state and buffers are not counted.

    Args:
        profile: The model.
        cut: Each client's cut, an index into the profile's cuts.
        clients: Who they are.
        algorithm: The algorithm.
        optimizer_state: Whether optimizer state goes with the weights and is averaged.
        first: Whether it is a run's first round: there is no state to be broadcast yet.
        previous_cut: Where each client cut in the round before; None: no stage of its own for layers that move.
        deepest: The deepest cut of all registered clients; None: of these.
        previous_deepest: The same for the round before; None: it did not move.
        missed_steps: The steps that each was away from, whose pairs a zeroth-order client is sent; None: from none.
        probes: P, for zeroth-order clients.
    """
    rule = rule_of(algorithm)
    whole = whole_of(profile)
    shard_bit, whole_bit = _sent_bit(profile, optimizer_state), _sent_bit(whole, optimizer_state)[0]
    with_state = optimizer_state and not first
    broadcast_bit, whole_broadcast_bit = _sent_bit(profile, with_state), _sent_bit(whole, with_state)[0]
    last = int(cut.max()) if deepest is None else deepest
    if last < cut.max():
        raise ValueError(f"deepest={deepest} is not accepted: a client cuts at {cut.max()}, which is deeper.")
    nothing = np.zeros(len(clients))
    up = down = nothing
    if previous_cut is not None and rule.uses_cut:
        up = np.maximum(shard_bit[previous_cut] - shard_bit[cut], 0.0)
        down = np.maximum(shard_bit[cut] - shard_bit[previous_cut], 0.0)
    if not rule.sends_weights:
        update = broadcast = own = nothing
        if missed_steps is not None and probes is not None:
            broadcast = missed_bit(probes, missed_steps, depth_of(cut))
    elif not rule.uses_cut:
        update, broadcast, own = np.full(len(clients), whole_bit), np.full(len(clients), whole_broadcast_bit), nothing
    else:
        update = shard_bit[cut]
        broadcast = broadcast_bit[cut if previous_cut is None else previous_cut]
        own = (whole_bit if rule.server_replicas else shard_bit[last]) - shard_bit[cut]
    averages_whole = rule.server_replicas or not rule.uses_cut
    averaged = whole.update_parameters[0] if averages_whole else profile.update_parameters[last]
    handover = 0.0
    if previous_deepest is not None and rule.uses_cut and rule.sends_weights and not rule.server_replicas:
        handover = abs(float(shard_bit[last] - shard_bit[previous_deepest]))
    return RoundLoad(
        clients=clients,
        update_bit=update,
        broadcast_bit=broadcast,
        resplit_up_bit=up,
        resplit_down_bit=down,
        inter_server_bit=own,
        handover_bit=handover,
        aggregation_flop=np.full(len(clients), 2.0 * averaged) if rule.averages else nothing,
    )


def whole_of(profile: Profile) -> Profile:
    """The profile of the uncut model, which that one is itself."""
    if profile.whole is not None:
        return profile.whole
    if len(profile.cuts) > 1:
        raise ValueError(
            f"Profile(whole=None) with {len(profile.cuts)} cuts is not accepted: it needs the whole model's."
        )
    return profile


def _bits_of(
    kind: MessageKind, bits: FloatArray | None, quantised: Mapping[MessageKind, BoolArray] | None
) -> FloatArray | None:
    """The bits per element of one kind of message."""
    if bits is None or quantised is None:
        return bits
    return np.where(quantised.get(kind, np.zeros(len(bits), dtype=bool)), bits, UNENCODED_BIT)


def _crossing_bit(
    profile: Profile, name: str, cut: IntArray, batch_size: IntArray, bits: FloatArray | None
) -> FloatArray:
    """What crosses of one kind, (K,): as computed, or through a uniform quantiser per tensor.

    That is, of every tensor of n elements, ⌈n · bits / 8⌉ whole bytes, and the least and the largest value: 2 · 32 bits
    (2 · 64 where it is computed in double precision).
    """
    computed = at(getattr(profile, f"{name}_bit")[cut], batch_size)
    if bits is None:
        return computed
    elements = at(getattr(profile, f"{name}_element")[cut], batch_size[:, None])
    range_bit = np.where(computed < 64 * elements.sum(axis=1), 2 * 32, 2 * 64)
    each = 8 * np.ceil(elements * bits[:, None] / 8) + range_bit[:, None]
    quantised: FloatArray = np.where(elements > 0, each, 0.0).sum(axis=1)
    return np.where(bits == UNENCODED_BIT, computed, quantised)


def _sent_bit(profile: Profile, with_state: bool) -> FloatArray:
    """What an update or a broadcast has at every cut."""
    return profile.update_bit + profile.optimizer_state_bit if with_state else profile.update_bit
