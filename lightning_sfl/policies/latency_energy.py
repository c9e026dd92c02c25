"""A round's latency and energy as far as bits, powers and the band change them: what SFLAM and its baselines decide by.

    objective = w T/T_ref + (1 - w) ΣE/E_ref

T is the whole round and ΣE what clients compute and send with (SFLAM, arXiv 2504.09114; a reconstruction). T_ref and
E_ref are what the round takes if nothing is quantised and everybody sends with its highest power in an equal part of
the band, so that the objective is then 1. Where the energy of computing is not modelled, ΣE is that of sending alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.policies.decision import Decision, InfeasibleError, Policy
from lightning_sfl.policies.observation import Observation, Radio
from lightning_sfl.policies.quantisation import quantisation_error
from lightning_sfl.policies.solvers.bits import fewest
from lightning_sfl.policies.solvers.power import at_most_power
from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.cost.round_cost import RoundCost
from lightning_sfl.world.world import Ends


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A round whose bits are decided and whose powers and bands are not.

    Attributes:
        seen: What was observed.
        total_hz: The band that all share.
        bits: Bits per element that crosses, (K,); None: nobody has a quantiser.
        sending: What is left to decide; None where nobody sends anything.
        fixed: What of the objective it does not change.
    """

    seen: Observation
    total_hz: float
    bits: IntArray | None
    sending: Sending | None
    fixed: float

    @property
    def equal_hz(self) -> FloatArray:
        """The band in equal parts, (K,)."""
        clients = len(self.seen.clients)
        return np.full(clients, self.total_hz / clients)

    def decision(
        self, airtime: FloatArray, band_hz: FloatArray, costs: Sequence[float], bound: float | None = None
    ) -> Decision:
        """The decision to send like this, (K,) each.

        Args:
            airtime: Seconds per bit; infinite for who sends nothing.
            band_hz: The bandwidths.
            costs: What sending cost after each block of the descent.
            bound: No decision with these bits costs less; None: not known.
        """
        assert self.sending is not None
        needed = np.where(self.sending.sends(), self.sending.watt(airtime, band_hz), self.sending.most_watt)
        # Never 0, which is no power, and to rounding it may be above the highest.
        watt = np.clip(needed, np.finfo(np.float64).tiny, self.sending.most_watt)
        cost = round_of(self.seen, self.bits, watt, band_hz)
        objective = costs[-1] + self.fixed
        figures = {} if bound is None else {"objective_bound": bound + self.fixed}
        words = [] if self.bits is None else [f"{_span(self.bits)} bits"]
        words += [f"{_span(watt)} W", f"{_span(band_hz / 1e6)} MHz"]
        if self.bits is None:
            words.append("no bits, since nobody has a quantiser")
        return Decision(
            allocation=self.seen.allocation(bits=self.bits, transmit_power_watt=watt, bandwidth_hz=band_hz),
            reason=f"{', '.join(words)}: {objective:.3g} of full power, equal parts and no quantiser",
            figures=figures
            | {
                "objective": objective,
                "first_objective": costs[0] + self.fixed,
                "round_s": cost.total_s,
                "client_joule": float(client_joule(cost).sum()),
            },
        )

    def unchanged(self) -> Decision:
        """The decision where nobody sends anything."""
        return Decision(allocation=self.seen.allocation(bits=self.bits), reason="nobody sends anything")


def plan(policy: Policy, seen: Observation, weight: float, choices: Sequence[int], most_error: float) -> Plan:
    """A round with the fewest bits that are allowed.

    Raises:
        ValueError: Nothing here can be allocated.
        InfeasibleError: No choice of bits errs so little.
    """
    name = type(policy).__name__
    radio, total_hz = _shared(name, seen)
    clients = len(seen.clients)
    equal_hz = np.full(clients, total_hz / clients)
    unquantised = None if seen.bits is None else np.full(clients, UNENCODED_BIT)
    reference = round_of(seen, unquantised, radio.most_watt, equal_hz)
    bits = None if seen.bits is None else _bits(name, seen, choices, most_error)
    cost = round_of(seen, bits, radio.most_watt, equal_hz)
    spent = float(client_joule(reference).sum())
    second, joule = weight / reference.total_s, (1.0 - weight) / spent if spent > 0 else 0.0
    sending = _sending(cost, radio, second, joule)
    fixed = second * cost.total_s + joule * float(client_joule(cost).sum())
    if sending is not None:
        fixed -= at_most_power(sending, equal_hz).cost
    return Plan(seen=seen, total_hz=total_hz, bits=bits, sending=sending, fixed=fixed)


def round_of(seen: Observation, bits: IntArray | None, watt: FloatArray, band_hz: FloatArray) -> RoundCost:
    """What a round costs as the channel is seen now, with the clocks as they are; nobody's cut moves."""
    controls = dataclasses.replace(seen.controls, power_watt=watt, bandwidth_hz=band_hz)
    who = seen.participation(bits=None if bits is None else bits.astype(np.float64), controls=controls)
    return seen.world.round(who, Ends(optimizer_state=seen.sends_state), round=seen.round)


def client_joule(cost: RoundCost) -> FloatArray:
    """What computing, where it is modelled, and sending take of each client, (K,)."""
    found: FloatArray = np.nan_to_num(cost.compute_joule, nan=0.0) + cost.radio_joule
    return found


def _shared(name: str, seen: Observation) -> tuple[Radio, float]:
    """The uplink, and the band that is to be divided."""
    radio = seen.radio
    if radio is None or radio.total_hz is None:
        channel = seen.world.channel
        has = f"the rates of {type(channel).__name__}" if radio is None else "a band of its own for every client"
        raise ValueError(f"{name} divides a shared band, and here are {has}: use WirelessChannel with SharedBandwidth.")
    rule = seen.world.rule
    if rule.one_by_one:
        raise ValueError(
            f"{name} divides a band for clients that send at once; {rule.name} serves one after the other."
        )
    return radio, radio.total_hz


def _bits(name: str, seen: Observation, choices: Sequence[int], most_error: float) -> IntArray:
    clients = len(seen.clients)
    sent = []
    for choice in choices:
        load = seen.world.step_load(seen.participation(bits=np.full(clients, float(choice))))
        sent.append(load.uplink_bit + load.downlink_bit + load.turn_down_bit + load.turn_up_bit)
    error = np.tile(quantisation_error(np.array(choices)), (clients, 1))
    found = fewest(np.stack(sent, axis=1), error, most_error)
    if (found < 0).any():
        first = int((found < 0).argmax())
        raise InfeasibleError(
            f"{name}(most_error={most_error:g}) cannot be met by client {seen.clients[first]}: with {max(choices)} bits"
            f" the error is {error.min():.3g} of the squared range. Accepted is a larger one, or more bits."
        )
    bits = np.array(choices)[found]
    if seen.world.quantised is not None:  # who has no quantiser has no bits
        has_quantiser = np.any([whose[seen.clients] for whose in seen.world.quantised.values()], axis=0)
        bits = np.where(has_quantiser, bits, UNENCODED_BIT)
    return bits


def _sending(cost: RoundCost, radio: Radio, price_per_s: float, price_per_joule: float) -> Sending | None:
    """What sending costs in this round, whatever powers and bands it was asked with; None where nobody sends."""
    step, ends = cost.steps[0], cost.closing
    steps, nothing = len(cost.steps), np.zeros(len(cost.clients))
    if cost.rule.uses_cut:
        stages = [
            (steps, step.forward_s, step.load.uplink_bit, 0.0),
            (steps, step.turn_down_s + step.turn_s, step.load.turn_up_bit, 0.0),
            (1, nothing, ends.load.update_bit, ends.inter_server_s),
        ]
    else:  # nobody waits before the end
        before = cost.opening.client_s + steps * step.client_s
        stages = [(1, before, ends.load.update_bit, 0.0)]
    stages = [stage for stage in stages if stage[2].any()]
    if not stages:
        return None
    times, offset, bit, floor = zip(*stages, strict=True)
    return Sending(
        price_per_s=price_per_s * np.array(times, dtype=np.float64),
        offset_s=np.stack(offset),
        bit=np.stack(bit),
        floor_s=np.array(floor),
        sent_bit=np.array(times, dtype=np.float64) @ np.stack(bit),
        price_per_joule=price_per_joule,
        gain_to_noise_hz_per_watt=radio.gain_to_noise_hz_per_watt,
        most_watt=radio.most_watt,
    )


def _span(values: FloatArray | IntArray) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"
