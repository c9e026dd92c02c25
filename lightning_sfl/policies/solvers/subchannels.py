"""Powers and subchannels of one width together, where a client's gain is the same in all of them.

How many subchannels a client has is then all there is to decide. With deadlines given, what a subchannel more saves
falls with every one that a client has, so moving one from where it saves least to where it saves most, until no such
pair is left, ends at the best numbers (Fox 1966). Deadlines and numbers are improved in turn from the best division of
the band (:mod:`~lightning_sfl.policies.solvers.band`), and where neither does better alone a subchannel is moved and
the deadlines are solved anew, until no pair blocks (SFLAM's matching, arXiv 2504.09114; a reconstruction).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lightning_sfl.policies.solvers.band import divide, least_band, relax
from lightning_sfl.policies.solvers.power import Sent, least_power
from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.world.arrays import FloatArray, IntArray

_LN2 = math.log(2.0)
_WORTH_IT = 1e-6
"""A move that saves a smaller share of the cost than this is not made, so that moving ends."""
_MOST_TURNS = 20
_TRIED = 2
"""Clients that give and clients that take, of which every pair is tried; all of them where there are few."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """Who has how many subchannels and sends how.

    Attributes:
        count: Subchannels, (K,).
        band_hz: What they are wide together, (K,).
        sent: How clients send.
        bound: No numbers and powers cost less.
        costs: The cost after each block of the descent.
    """

    count: IntArray
    band_hz: FloatArray
    sent: Sent
    bound: float
    costs: Sequence[float]


def even(clients: int, total: int) -> IntArray:
    """As many subchannels for one as for another, as far as that goes, (K,)."""
    return np.full(clients, total // clients) + (np.arange(clients) < total % clients)


def share(sending: Sending, width_hz: float, total: int) -> Shared:
    """The numbers and the powers that cost least; at least one subchannel each."""
    count = even(len(sending.most_watt), total)
    sent = _sure(least_power(sending, _band(width_hz, count)))
    costs = [sent.cost]
    relaxed = relax(sending, width_hz * total, sent.deadline_s, sent.cost)
    tried = numbers(sending, width_hz, total, _reachable(sending, width_hz, total, relaxed.deadline_s))
    better = least_power(sending, _band(width_hz, tried), sent.cost)
    if better is not None:
        count, sent = tried, better
    costs.append(sent.cost)
    for _ in range(_MOST_TURNS):
        tried = numbers(sending, width_hz, total, sent.deadline_s, count)
        better = None
        if (tried != count).any():
            better = least_power(sending, _band(width_hz, tried), sent.cost * (1.0 - _WORTH_IT))
        if better is None:
            moved = _moved(sending, width_hz, count, sent)
            if moved is None:
                break
            tried, better = moved
        count, sent = tried, better
        costs.append(sent.cost)
    return Shared(
        count=count, band_hz=_band(width_hz, count), sent=sent, bound=min(relaxed.bound, sent.cost), costs=tuple(costs)
    )


def numbers(
    sending: Sending, width_hz: float, total: int, deadline_s: FloatArray, start: IntArray | None = None
) -> IntArray:
    """The numbers that meet the deadlines with the least energy, (K,); ``start`` is known to meet them."""
    airtime, _ = sending.slowest_airtime(deadline_s)
    if start is None:
        least = _least_number(sending, width_hz, airtime)
        divided_hz = divide(sending, width_hz * total, deadline_s)[0]
        count = np.maximum(least, np.floor(divided_hz / width_hz).astype(np.int64))
    else:
        # To rounding, a deadline may ask for a little more than the highest power gives.
        airtime = np.maximum(airtime, sending.least_airtime(_band(width_hz, start)))
        least = np.minimum(_least_number(sending, width_hz, airtime), start)
        count = start.copy()
    energy = _Energy(sending, width_hz, airtime)
    gains, losses = energy.gains(count), np.where(count > least, energy.losses(count), np.inf)
    spare = total - int(count.sum())
    while True:
        taker, giver = int(gains.argmax()), int(losses.argmin())
        if spare == 0 and gains[taker] <= losses[giver] * (1.0 + 1e-9):
            return count
        changes = [(giver, -1)] * (spare <= 0) + [(taker, 1)] * (spare >= 0)
        for client, change in changes:
            count[client] += change
            spare -= change
            number = int(count[client])
            gains[client] = energy.of(client, number) - energy.of(client, number + 1)
            more = number > least[client]
            losses[client] = energy.of(client, number - 1) - energy.of(client, number) if more else np.inf


class _Energy:
    """What clients need at given air times with so many subchannels, in joules above what they need in any case."""

    def __init__(self, sending: Sending, width_hz: float, airtime: FloatArray) -> None:
        self._load, self._least_joule = _LN2 / (width_hz * airtime), sending.least_joule

    def gains(self, count: IntArray) -> FloatArray:
        """What one more saves, (K,)."""
        return self._joule(count) - self._joule(count + 1)

    def losses(self, count: IntArray) -> FloatArray:
        """What one less costs, (K,)."""
        return self._joule(np.maximum(count - 1, 1)) - self._joule(count)

    def of(self, client: int, number: int) -> float:
        """What one client needs."""
        load = float(self._load[client]) / number
        # (e^u - 1)/u - 1; its series where the difference has no digits left.
        grown = math.expm1(load) / load - 1.0 if load > 1e-4 else load * (0.5 + load / 6.0)
        return float(self._least_joule[client]) * grown

    def _joule(self, count: IntArray) -> FloatArray:
        load = np.minimum(self._load / count, 700.0)
        safe = np.maximum(load, 1e-4)
        grown = np.where(load > 1e-4, np.expm1(safe) / safe - 1.0, load * (0.5 + load / 6.0))
        found: FloatArray = self._least_joule * grown
        return found


def _least_number(sending: Sending, width_hz: float, airtime: FloatArray) -> IntArray:
    """The fewest subchannels that reach these air times at the highest power, (K,)."""
    needed = least_band(sending, airtime) / width_hz
    # To rounding: a number that it takes exactly is enough.
    return np.maximum(np.ceil(np.minimum(needed, 2.0**40) * (1.0 - 1e-9)), 1.0).astype(np.int64)


def _reachable(sending: Sending, width_hz: float, total: int, deadline_s: FloatArray) -> FloatArray:
    """The deadlines, put off by the same factor for all until whole subchannels are enough."""

    def enough(factor: float) -> bool:
        airtime, _ = sending.slowest_airtime(factor * deadline_s)
        return int(_least_number(sending, width_hz, airtime).sum()) <= total

    low, high = 1.0, 1.0
    while not enough(high):
        low, high = high, 2.0 * high
    while high > low * (1.0 + 1e-4):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * deadline_s


def _moved(sending: Sending, width_hz: float, count: IntArray, sent: Sent) -> tuple[IntArray, Sent] | None:
    """The best single move of a subchannel with the deadlines solved anew; None where no pair blocks."""
    energy = _Energy(sending, width_hz, sent.airtime)
    full = sent.airtime <= sending.least_airtime(_band(width_hz, count)) * (1.0 + 1e-6)
    givers = np.argsort(np.where(count > 1, energy.losses(count), np.inf), kind="stable")
    givers = givers[count[givers] > 1]
    # Whoever sends at the highest power holds up all others, whatever energy it would save.
    takers = np.argsort(-energy.gains(count), kind="stable")
    pressed = np.flatnonzero(full)[np.argsort(-energy.gains(count)[full], kind="stable")]
    best: tuple[IntArray, Sent] | None = None
    to_beat = sent.cost * (1.0 - _WORTH_IT)
    for taker in dict.fromkeys([*pressed[:_TRIED].tolist(), *takers[:_TRIED].tolist()]):
        for giver in givers[: _TRIED + 1].tolist():
            if giver == taker:
                continue
            tried = count.copy()
            tried[giver] -= 1
            tried[taker] += 1
            better = least_power(sending, _band(width_hz, tried), to_beat)
            if better is not None:
                best, to_beat = (tried, better), better.cost
    return best


def _band(width_hz: float, count: IntArray) -> FloatArray:
    return np.asarray(width_hz * count, dtype=np.float64)


def _sure(sent: Sent | None) -> Sent:
    assert sent is not None  # there was nothing to beat
    return sent
