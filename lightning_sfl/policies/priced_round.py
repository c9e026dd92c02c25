"""A round at a price per second and per joule: what the solvers of splits and controls choose from, and what it costs.

Everything is asked of the world: at every cut, with the highest clock and power. From there on computing takes 1/φ of
the time and φ² of the energy at the share φ of the clock, as the world has it (G f³ for a time that goes with 1/f), and
bits take what Shannon's rate says.

With re-splits, layers that move are a stage of their own in the first round that is decided for, and the broadcast of
that round is at the cuts before (``Ends(previous_cut=...)``). Without, they are in the broadcast, as a trainer sends
them. Where clients share the downlink's band, fewer of them may be sent something than is assumed here, so that
this is a bound; what a decision reports is always the world's own answer.
"""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import InfeasibleError
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.solvers.controls import Limits, Setting
from lightning_sfl.policies.solvers.split_and_controls import Round
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.channel.channel import Channel, Transmission
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.channel.wireless import OwnBandwidth, WirelessChannel
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import AS_BUILT, Controls
from lightning_sfl.world.devices.fleet import Device, Fleet
from lightning_sfl.world.world import Ends, World


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoundTables:
    """What the world says of a round of K clients at each of C cuts.

    Attributes:
        broadcast_s: Sending the weights, (K, C).
        moved_up_bit: Layers that a client gives up, (K, C); zero without re-splits, like the next.
        moved_down_s: Sending it the layers it lacks, (K, C).
        forward_s: A step's forward pass at the highest clock, (K, C).
        up_bit: What a step sends, (K, C).
        server_s: The server's work for it, (K, C).
        down_s: What a step sends back, (K, C).
        backward_s: The backward pass at the highest clock, (K, C).
        joule: What computing takes of the client in a step at the highest clock, (K, C).
        update_bit: The update at the end, (K, C).
        aggregation_s: Averaging, for every deepest cut, (C,).
        fits: Which cuts a client has the memory for, (K, C).
    """

    broadcast_s: FloatArray
    moved_up_bit: FloatArray
    moved_down_s: FloatArray
    forward_s: FloatArray
    up_bit: FloatArray
    server_s: FloatArray
    down_s: FloatArray
    backward_s: FloatArray
    joule: FloatArray
    update_bit: FloatArray
    aggregation_s: FloatArray
    fits: BoolArray


def round_tables(seen: Observation, *, resplits: bool) -> RoundTables:
    """Ask the world.

    Raises:
        ValueError: The algorithm serves clients one by one or has no cut, or labels stay with the client (U-shape).
        InfeasibleError: A client has the memory for no cut; it is named.
    """
    world, clients, cuts = seen.world, len(seen.clients), len(seen.world.profile.cuts)
    if world.rule.one_by_one or not world.rule.uses_cut:
        raise ValueError(
            f"algorithm={world.algorithm!r} is not accepted: splits and controls are decided for algorithms that have a"
            " cut and serve all clients at once."
        )
    if (world.profile.returned_bit > 0).any():
        raise ValueError("two cuts (a U-shape) are not accepted: the client's turn between them has no stage here.")
    everywhere, who = _once_at_every_cut(seen)
    ends = Ends(optimizer_state=seen.sends_state, deepest=cuts - 1)
    step = everywhere.step(who, round=seen.round)
    opening = everywhere.opening(who, ends, round=seen.round)
    closing = everywhere.closing(who, ends, round=seen.round)
    moved_up = moved_down = np.zeros(len(who.clients))
    if resplits:
        ends = dataclasses.replace(ends, previous_cut=np.repeat(seen.cut, cuts))
        moved = everywhere.opening(who, ends, round=seen.round)
        moved_up = moved.load.resplit_up_bit
        moved_down = np.where(moved_up > 0, 0.0, moved.resplit_s)
    aggregation_s = []
    for cut in range(cuts):
        load = world.round_load(
            seen.participation(np.full(clients, cut)), Ends(optimizer_state=seen.sends_state, deepest=cut)
        )
        aggregation_s.append(float(load.aggregation_flop.sum() / world.server.flop_per_s()))

    def table(values: FloatArray) -> FloatArray:
        return values.reshape(clients, cuts)

    return RoundTables(
        broadcast_s=table(opening.broadcast_s),
        moved_up_bit=table(moved_up),
        moved_down_s=table(moved_down),
        forward_s=table(step.forward_s),
        up_bit=table(step.load.uplink_bit),
        server_s=table(step.server_s),
        down_s=table(step.downlink_s),
        backward_s=table(step.backward_s),
        joule=table(step.compute_joule),
        update_bit=table(closing.load.update_bit),
        aggregation_s=np.array(aggregation_s),
        fits=_fits(seen),
    )


def _once_at_every_cut(seen: Observation) -> tuple[World, Participation]:
    """A world with a device and a channel like each client's for every cut, client by client, and all of them there.

    So that the world is asked once and not for every cut; each has the band that it has if all of the K clients send.
    """
    world, cuts = seen.world, len(seen.world.profile.cuts)
    who = np.repeat(seen.clients, cuts)
    devices = {field.name: getattr(world.fleet, field.name)[who] for field in dataclasses.fields(Device)}
    devices["flop_per_cycle"] = devices["flop_per_cycle"] * np.repeat(
        world.fleet.speed.factor(seen.clients, seen.round), cuts
    )
    everybody = Participation(
        clients=np.arange(len(who)),
        cut=np.tile(np.arange(cuts), len(seen.clients)),
        batch_size=np.repeat(seen.batch_size, cuts),
        bits=None if seen.bits is None else np.repeat(seen.bits, cuts),
    )
    quantised = None if world.quantised is None else {kind: whose[who] for kind, whose in world.quantised.items()}
    alike = dataclasses.replace(world, fleet=Fleet(**devices), channel=_channel_of(seen, who), quantised=quantised)
    return alike, everybody


def _channel_of(seen: Observation, who: IntArray) -> Channel:
    """A channel like these clients'."""
    channel = seen.world.channel
    if isinstance(channel, WirelessChannel):
        share = {"up": channel.uplink_bandwidth.hz(seen.clients), "down": channel.downlink_bandwidth.hz(seen.clients)}
        times = len(who) // len(seen.clients)
        return dataclasses.replace(
            channel,
            uplink_gain=channel.uplink_gain[who],
            downlink_gain=channel.downlink_gain[who],
            client_power_watt=channel.client_power_watt[who],
            uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.repeat(share["up"], times)),
            downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.repeat(share["down"], times)),
        )
    sent = Transmission(clients=who, round=seen.round, start_s=np.zeros(len(who)))
    return RateChannel(
        mean_uplink_bit_per_s=channel.uplink_bit_per_s(sent), mean_downlink_bit_per_s=channel.downlink_bit_per_s(sent)
    )


def limits_of(seen: Observation) -> Limits:
    """Within what clients are controlled."""
    fleet, who, radio = seen.world.fleet, seen.clients, seen.radio
    lowest = fleet.lowest_clock_hz[who] / fleet.clock_hz[who]
    if radio is None:
        one = np.ones(len(who))
        bit = 1e6 * one
        load = seen.world.step(seen.participation(controls=AS_BUILT), round=seen.round)
        rate = np.divide(load.load.uplink_bit, load.uplink_s, out=bit, where=load.uplink_s > 0)
        return Limits(
            lowest_share=lowest,
            most_watt=fleet.transmit_power_watt[who],
            gain_to_noise_hz_per_watt=one,
            band_hz=one,
            total_hz=None,
            second_per_bit=1 / rate,
        )
    return Limits(
        lowest_share=lowest,
        most_watt=radio.most_watt,
        gain_to_noise_hz_per_watt=radio.gain_to_noise_hz_per_watt,
        band_hz=radio.own_hz,
        total_hz=radio.total_hz,
    )


def priced(
    seen: Observation,
    tables: RoundTables,
    *,
    second_price: float,
    joule_price: FloatArray,
    base: FloatArray,
    resplits: bool,
) -> Round:
    """The mean round of those that are decided for, at a price per second and per joule of every client, (K,).

    Args:
        seen: What is seen.
        tables: What the world says.
        second_price: What a second costs, above 0.
        joule_price: What a joule of every client costs, (K,).
        base: What else there is to pay for every deepest cut, (C,).
        resplits: Whether layers that move are a stage of their own.
    """
    steps, nothing = float(seen.world.aggregate_every), np.zeros_like(tables.forward_s)
    moves = 1.0 / seen.rounds if resplits else 0.0  # only the first round has any
    serial = seen.world.server.works == "serial"
    # Broadcast, re-split, up, server, back, upload: how often, clock, bits, given.
    stages = [
        (1.0 - moves, nothing, nothing, tables.broadcast_s),
        (moves, nothing, tables.moved_up_bit, tables.moved_down_s),
        (steps, tables.forward_s, tables.up_bit, nothing),
        (0.0 if serial else steps, nothing, nothing, tables.server_s),
        (steps, tables.backward_s, nothing, tables.down_s),
        (1.0, nothing, tables.update_bit, nothing),
    ]
    kept = [
        place for place, (often, *parts) in enumerate(stages) if often > 0 and any((part > 0).any() for part in parts)
    ]
    bit = steps * tables.up_bit + tables.update_bit + moves * tables.moved_up_bit
    # Energy that is not modelled has no price; asking for a budget of it is refused before.
    joule = np.where(np.isnan(tables.joule), 0.0, tables.joule)
    others = seen.deepest_of_others
    extra = base + second_price * tables.aggregation_s
    if resplits:
        before_s = float(tables.broadcast_s[np.arange(len(seen.cut)), seen.cut].max())
        extra = extra + second_price * moves * before_s
    return Round(
        clock_s=np.stack([stages[place][1] for place in kept]),
        bit=np.stack([stages[place][2] for place in kept]),
        given_s=np.stack([stages[place][3] for place in kept]),
        weight=second_price * np.array([stages[place][0] for place in kept]),
        own_price=second_price * steps * tables.server_s if serial else nothing,
        clock_price=joule_price[:, None] * steps * joule,
        bit_price=joule_price[:, None] * bit,
        base=extra[np.maximum(np.arange(len(extra)), others)],
        fits=tables.fits,
        floor_s=lambda cut: _floors(seen, cut, kept),
    )


def controls_of(seen: Observation, limits: Limits, setting: Setting) -> Controls:
    """A setting as clients are given it; what an environment fixes is left out."""
    fleet, who = seen.world.fleet, seen.clients
    lowest, highest = fleet.lowest_clock_hz[who], fleet.clock_hz[who]
    clock = np.clip(setting.share[0] * highest, lowest, highest) if (lowest < highest).any() else None
    if limits.second_per_bit is not None:
        return Controls(clock_hz=clock)
    power = limits.watt(setting.second_per_bit, setting.band_hz)[0]
    return Controls(
        clock_hz=clock, power_watt=power, bandwidth_hz=None if limits.total_hz is None else setting.band_hz[0]
    )


def believed(seen: Observation, cut: IntArray, controls: Controls, *, resplits: bool) -> tuple[float, FloatArray]:
    """Seconds of the mean round of those that are decided for, and joules of every client, (K,), as the world says."""
    who, deepest = seen.participation(cut, controls=controls), max(int(cut.max()), seen.deepest_of_others)
    usual = Ends(optimizer_state=seen.sends_state, deepest=deepest)
    first = usual
    if resplits:
        before = max(int(seen.cut.max()), seen.deepest_of_others)
        first = dataclasses.replace(usual, previous_cut=seen.cut, previous_deepest=before)
    costs = [seen.world.round(who, first, round=seen.round)]
    if seen.rounds > 1:
        costs.append(seen.world.round(who, usual, round=seen.round))
    share = 1.0 / seen.rounds
    weights = (share, 1.0 - share)[: len(costs)]
    delay_s = sum(weight * cost.total_s for weight, cost in zip(weights, costs, strict=True))
    joule = sum(
        (weight * (cost.compute_joule + cost.radio_joule) for weight, cost in zip(weights, costs, strict=True)),
        np.zeros(len(cut)),
    )
    return delay_s, joule


def _fits(seen: Observation) -> BoolArray:
    """Which cuts each client has the memory for."""
    try:
        return seen.world.feasible(seen.clients, seen.batch_size)
    except ValueError as error:
        raise InfeasibleError(str(error)) from error


def _floors(seen: Observation, cut: IntArray, kept: list[int]) -> FloatArray:
    """What the line between the servers takes in broadcast and upload, (S,)."""
    world = seen.world
    floors = np.zeros(6)
    if (rate := world.server.inter_server_bit_per_s) is not None:
        deepest = max(int(cut.max()), seen.deepest_of_others)
        load = world.round_load(seen.participation(cut), Ends(optimizer_state=seen.sends_state, deepest=deepest))
        floors[[0, 5]] = float(load.inter_server_bit.sum()) / rate
    return floors[kept]
