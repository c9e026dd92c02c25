"""Subchannels by swap matching, where a client's gain is not the same in all of them.

Many-to-one: every subchannel belongs to one client, every client has at least one. Two subchannels change owners, or
one does, whenever that lowers the cost of all together, until no such pair is left (SFLAM, arXiv 2504.09114; a
reconstruction). The cost falls with every change and there are only so many matchings, so it ends; it ends at a
matching that no single change betters, which need not be the best one. Powers are given, spread evenly over a client's
subchannels.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.world.arrays import FloatArray, IntArray

_LN2 = float(np.log(2.0))
_WORTH_IT = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """Who has which subchannel.

    Attributes:
        owner: Whose each subchannel is, (S,).
        costs: The cost at the start and after every change.
    """

    owner: IntArray
    costs: Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subchannels:
    """The problem of matching K clients with S subchannels.

    Attributes:
        sending: What sending costs; its gains are not used.
        gain_to_noise_hz_per_watt: |h|²/N0 of every client in every subchannel, (K, S).
        width_hz: What a subchannel is wide.
        watt: What a client sends with, (K,).
    """

    sending: Sending
    gain_to_noise_hz_per_watt: FloatArray
    width_hz: float
    watt: FloatArray

    def rate(self, number: IntArray) -> FloatArray:
        """Bits per second of every client in every subchannel if it has so many of them, (K, S)."""
        received = (self.watt / np.maximum(number, 1))[:, None] * self.gain_to_noise_hz_per_watt
        found: FloatArray = self.width_hz / _LN2 * np.log1p(received / self.width_hz)
        return found

    def client_rate(self, owner: IntArray) -> FloatArray:
        """Bits per second of every client, (K,)."""
        return _held(self.rate(np.bincount(owner, minlength=len(self.watt))), owner)

    def cost(self, owner: IntArray) -> float:
        """What a matching costs."""
        airtime = 1.0 / self.client_rate(owner)
        joule = float((self.sending.sent_bit * airtime * self.watt).sum())
        return float(self.sending.price_per_s @ self.sending.stage_s(airtime)) + self.sending.price_per_joule * joule


def match(problem: Subchannels) -> Matching:
    """A matching that no change of one or two subchannels betters.

    Raises:
        ValueError: There are fewer subchannels than clients.
    """
    clients, total = problem.gain_to_noise_hz_per_watt.shape
    if total < clients:
        raise ValueError(f"{total} subchannels are too few for {clients} clients: each needs one.")
    owner = _start(problem)
    costs = [problem.cost(owner)]
    while True:
        tried = best_change(problem, owner)
        cost = problem.cost(tried)
        if cost >= costs[-1] * (1.0 - _WORTH_IT):
            return Matching(owner=owner, costs=tuple(costs))
        owner = tried
        costs.append(cost)


def _start(problem: Subchannels) -> IntArray:
    """One subchannel each as if clients did not wait for each other; the others to whom time and energy cost most."""
    clients, total = problem.gain_to_noise_hz_per_watt.shape
    alone = _alone(problem, 1.0 / problem.rate(np.ones(clients, dtype=np.int64)))
    owner = np.full(total, -1)
    rows, columns = linear_sum_assignment(alone)
    owner[columns] = rows
    for place in np.flatnonzero(owner < 0):
        taken = np.flatnonzero(owner >= 0)
        number = np.bincount(owner[taken], minlength=clients)
        rate = problem.rate(number)
        held = _held(rate[:, taken], owner[taken])
        owner[place] = int(_alone(problem, (1.0 / held)[:, None])[:, 0].argmax())
    return owner


def _held(rate: FloatArray, owner: IntArray) -> FloatArray:
    """What clients have in all of a table (K, S), (K,)."""
    found = np.zeros(len(rate))
    np.add.at(found, owner, rate[owner, np.arange(len(owner))])
    return found


def _alone(problem: Subchannels, airtime: FloatArray) -> FloatArray:
    """What clients would cost with these air times if each paid for all that it takes, (K, ...)."""
    sending = problem.sending
    per_second = sending.price_per_s @ sending.bit + sending.price_per_joule * sending.sent_bit * problem.watt
    found: FloatArray = (sending.price_per_s @ sending.offset_s)[:, None] + per_second[:, None] * airtime
    return found


def best_change(problem: Subchannels, owner: IntArray) -> IntArray:
    """The matching with the change of one or two subchannels that costs least."""
    clients, places = len(problem.watt), np.arange(len(owner))
    number = np.bincount(owner, minlength=clients)
    fewer, same, more = (problem.rate(number + change) for change in (-1, 0, 1))

    # A subchannel, (S, 1), goes to another client, (1, K).
    left = (_held(fewer, owner)[owner] - fewer[owner, places])[:, None]
    gained = (_held(more, owner)[:, None] + more).T
    moved = _cost_with(problem, owner, owner[:, None], np.arange(clients)[None], left, gained)
    moved[(number[owner] <= 1)[:, None] | (owner[:, None] == np.arange(clients))] = np.inf
    # Two subchannels, (S, 1) and (1, S), change owners.
    kept = _held(same, owner)[owner] - same[owner, places]
    swapped = _cost_with(
        problem, owner, owner[:, None], owner[None], kept[:, None] + same[owner], (kept[:, None] + same[owner]).T
    )
    swapped[owner[:, None] == owner] = np.inf
    changed = owner.copy()
    if moved.min() <= swapped.min():
        place, taker = np.unravel_index(int(moved.argmin()), moved.shape)
        changed[place] = taker
    else:
        one, other = np.unravel_index(int(swapped.argmin()), swapped.shape)
        changed[one], changed[other] = owner[other], owner[one]
    return changed


def _cost_with(
    problem: Subchannels, owner: IntArray, one: IntArray, other: IntArray, one_rate: FloatArray, other_rate: FloatArray
) -> FloatArray:
    """What it costs if two clients have other rates."""
    sending = problem.sending
    with np.errstate(divide="ignore", invalid="ignore"):
        airtime = 1.0 / problem.client_rate(owner)
        one_airtime, other_airtime = 1.0 / np.maximum(one_rate, 0.0), 1.0 / np.maximum(other_rate, 0.0)
        joule = sending.sent_bit * problem.watt
        energy = (joule * airtime).sum() - joule[one] * airtime[one] - joule[other] * airtime[other]
        cost = sending.price_per_joule * (energy + joule[one] * one_airtime + joule[other] * other_airtime)
        for stage in range(len(sending.price_per_s)):
            offset, bit = sending.offset_s[stage], sending.bit[stage]
            busy = offset + bit * airtime
            latest = np.argsort(-busy, kind="stable")[:3]  # one of them is neither of the two
            rest = np.full(np.broadcast_shapes(one.shape, other.shape), sending.floor_s[stage])
            for client in latest:
                counts = (one != client) & (other != client)
                rest = np.where(counts, np.maximum(rest, busy[client]), rest)
            changed = np.maximum(offset[one] + bit[one] * one_airtime, offset[other] + bit[other] * other_airtime)
            cost = cost + sending.price_per_s[stage] * np.maximum(rest, changed)
    found: FloatArray = np.nan_to_num(cost, nan=np.inf)
    return found
