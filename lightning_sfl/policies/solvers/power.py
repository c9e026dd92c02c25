"""Transmit powers for given bands: exact, by the stages' deadlines (SFLAM, arXiv 2504.09114; a reconstruction).

Given the deadlines, every client sends as slowly, so with as little power, as they allow; what is left is a convex
function of as many variables as there are stages. The paper's successive convex approximation (the first-order
expansion of the energy p·d/r(p), which is concave in p, around the last powers) ends at the same point: each of its
steps is a problem of this size, and it takes several. So it is not used here; the tests compare it.
"""

import dataclasses

import numpy as np

from lightning_sfl.policies.solvers.ellipsoid import Seen, minimise
from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.world.arrays import FloatArray, IntArray

TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """How clients send.

    Attributes:
        deadline_s: What the stages take, (P,).
        airtime: Seconds per bit, (K,).
        cost: What it costs.
    """

    deadline_s: FloatArray
    airtime: FloatArray
    cost: float


def at_most_power(sending: Sending, band_hz: FloatArray) -> Sent:
    """Everybody sends as fast as it can."""
    airtime = np.where(sending.sends(), sending.least_airtime(band_hz), np.inf)
    return Sent(deadline_s=sending.stage_s(airtime), airtime=airtime, cost=sending.cost(airtime, band_hz))


def least_power(sending: Sending, band_hz: FloatArray, to_beat: float = np.inf) -> Sent | None:
    """The powers that cost least in these bands; None where they cost more than ``to_beat``."""
    fastest = sending.stage_s(sending.least_airtime(band_hz))
    slow = _at(sending, band_hz, fastest)
    start = min(slow.cost, to_beat)
    least_joule = sending.price_per_joule * float(sending.least_joule.sum())
    room = start - float(sending.price_per_s @ fastest) - least_joule
    if room <= 0.0:
        return slow if slow.cost < to_beat else None

    def look(log_deadline: FloatArray) -> Seen:
        deadline_s = np.exp(log_deadline)
        airtime, stage = sending.slowest_airtime(deadline_s)
        energy = sending.energy(airtime, band_hz)
        slope = sending.price_per_s + sending.price_per_joule * by_deadline(sending, energy.by_airtime, stage)
        value = float(sending.price_per_s @ deadline_s) + sending.price_per_joule * energy.joule
        return Seen(slope=slope * deadline_s, value=value)

    highest = np.log(fastest + room / sending.price_per_s)
    found = minimise(look, np.log(fastest), highest, to_beat=start, tolerance=TOLERANCE)
    if found.point is None:
        return slow if slow.cost < to_beat else None
    # The deadline of a stage that nobody waits for any more is what it really takes.
    sent = _at(sending, band_hz, np.exp(found.point))
    return sent if sent.cost < slow.cost else slow


def by_deadline(sending: Sending, by_airtime: FloatArray, stage: IntArray) -> FloatArray:
    """Slopes in the air times, (K,), turned into slopes in the deadlines that set them, (P,)."""
    bit = sending.bit[stage, np.arange(len(stage))]
    slopes = np.divide(by_airtime, bit, out=np.zeros_like(bit), where=bit > 0)
    return np.asarray(np.bincount(stage, slopes, minlength=len(sending.price_per_s)), dtype=np.float64)


def _at(sending: Sending, band_hz: FloatArray, deadline_s: FloatArray) -> Sent:
    # To rounding, a deadline may ask for a little more than a client's highest power gives.
    airtime = np.maximum(sending.slowest_airtime(deadline_s)[0], sending.least_airtime(band_hz))
    return Sent(deadline_s=sending.stage_s(airtime), airtime=airtime, cost=sending.cost(airtime, band_hz))
