"""Powers and parts of a shared band together, as if the band could be divided at will.

Given the stages' deadlines every client has a rate to reach, and the band is divided so that a hertz more saves as
much energy everywhere, except where the highest power needs more: with u = ln2 · r/B the saving is
(t N0/|h|²)(e^u (u - 1) + 1) per hertz for a client that sends for t seconds in all, which Lambert's W inverts. The
deadlines are then a convex problem of as many variables as there are stages. This is a lower bound on what any
number of subchannels can reach, and the place to look for the best numbers (SFLAM, arXiv 2504.09114, alternates
between power and subchannels and stops where neither can do better alone; a reconstruction).
"""

import dataclasses
import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw

from lightning_sfl.policies.solvers.ellipsoid import Seen, minimise
from lightning_sfl.policies.solvers.power import by_deadline
from lightning_sfl.policies.solvers.sending import Sending
from lightning_sfl.world.arrays import FloatArray

_LN2 = math.log(2.0)
_TOLERANCE = 1e-4
_WITHOUT_LIMIT = 100.0
_NEAR = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Relaxed:
    """The best that a band divided at will can do.

    Attributes:
        deadline_s: What the stages take, (P,).
        band_hz: Who has which part of the band, (K,).
        bound: No allocation costs less.
    """

    deadline_s: FloatArray
    band_hz: FloatArray
    bound: float


def least_band(sending: Sending, airtime: FloatArray) -> FloatArray:
    """The bandwidth that these air times need at the highest power, (K,); infinite where none is enough.

    B log2(1 + P|h|²/(B N0)) = r is solved for B by the lower branch of Lambert's W.
    """
    full = sending.most_watt * sending.gain_to_noise_hz_per_watt
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(airtime > 0, _LN2 / (full * airtime), np.inf)  # of the rate that all the band of the world has
    left = 1.0 - share
    possible, near = (share > 0) & (left > 1e-9), left < _NEAR
    safe = np.where(possible & ~near, share, 0.5)
    ratio = -lambertw(-safe * np.exp(-safe), -1).real / safe - 1.0
    # ln(1 + x)/x = 1 - x/2 + x²/3 - …, where W has no digits left.
    ratio = np.where(possible & near, 2.0 * left + 8.0 / 3.0 * left**2, ratio)
    found: FloatArray = np.where(possible, full / ratio, np.where(share > 0, np.inf, 0.0))
    return found


def relax(sending: Sending, total_hz: float, start_deadline_s: FloatArray, to_beat: float) -> Relaxed:
    """Deadlines and bands, from deadlines that can be met at a known cost."""
    clients = len(sending.most_watt)
    fastest = sending.stage_s(sending.least_airtime(np.full(clients, total_hz)))
    start_hz, worth = divide(sending, total_hz, start_deadline_s)
    held = Relaxed(deadline_s=start_deadline_s, band_hz=start_hz, bound=to_beat)

    def look(log_deadline: FloatArray) -> Seen:
        nonlocal worth  # near what it was at the point before
        deadline_s = np.exp(log_deadline)
        airtime, stage = sending.slowest_airtime(deadline_s)
        least_hz = least_band(sending, airtime)
        needed_hz = float(least_hz.sum())
        if needed_hz > total_hz:
            if not np.isfinite(needed_hz):  # somebody is late with any band: give the stage that is too short more time
                slope = -(np.arange(len(deadline_s)) == stage[int(least_hz.argmax())]).astype(np.float64)
                return Seen(slope=slope, value=0.0, allowed=False)
            grows = _least_band_slope(sending, airtime, least_hz)
            slope = by_deadline(sending, grows, stage) * deadline_s / needed_hz
            return Seen(slope=slope, value=float(np.log(needed_hz / total_hz)), allowed=False)
        band_hz, worth = _divided(sending, total_hz, airtime, least_hz, worth)
        energy = sending.energy(airtime, band_hz)
        by_airtime = energy.by_airtime
        at_limit = (band_hz <= least_hz) & sending.sends()
        if at_limit.any():
            grows = _least_band_slope(sending, airtime, least_hz)
            by_airtime = np.where(at_limit, by_airtime + (energy.by_band + worth) * grows, by_airtime)
        slope = sending.price_per_s + sending.price_per_joule * by_deadline(sending, by_airtime, stage)
        value = float(sending.price_per_s @ deadline_s) + sending.price_per_joule * energy.joule
        return Seen(slope=slope * deadline_s, value=value)

    room = to_beat - float(sending.price_per_s @ fastest) - sending.price_per_joule * float(sending.least_joule.sum())
    if room <= 0.0:
        return held
    highest = np.log(fastest + room / sending.price_per_s)
    found = minimise(look, np.log(fastest), highest, to_beat=to_beat, tolerance=_TOLERANCE)
    if found.point is None:
        return dataclasses.replace(held, bound=found.bound)
    deadline_s = np.exp(found.point)
    return Relaxed(deadline_s=deadline_s, band_hz=divide(sending, total_hz, deadline_s)[0], bound=found.bound)


def divide(sending: Sending, total_hz: float, deadline_s: FloatArray) -> tuple[FloatArray, float]:
    """The band divided so that the deadlines are met with the least energy, (K,), and what a hertz more would save."""
    airtime, _ = sending.slowest_airtime(deadline_s)
    return _divided(sending, total_hz, airtime, least_band(sending, airtime))


def _divided(
    sending: Sending, total_hz: float, airtime: FloatArray, least_hz: FloatArray, near: float | None = None
) -> tuple[FloatArray, float]:
    sends = sending.sends()
    rate = np.where(sends, 1.0 / airtime, 0.0)
    per_hertz = sending.gain_to_noise_hz_per_watt / np.where(sends, sending.sent_bit * airtime, np.inf)

    def band(log_worth: float) -> FloatArray:
        saving = np.exp(log_worth) * per_hertz
        # e^u (u - 1) + 1 = saving; near 0 it is u²/2, where W has no digits left.
        load = np.where(saving < 1e-9, np.sqrt(2.0 * saving), 1.0 + lambertw((saving - 1.0) / np.e).real)
        wanted = np.divide(_LN2 * rate, load, out=np.zeros_like(load), where=load > 0)
        found: FloatArray = np.maximum(least_hz, wanted)
        return found

    # Without a guess: what a band that is right for the mean of all is worth, to an order of magnitude.
    middle = -float(np.log(per_hertz[sends]).mean()) if near is None else math.log(near)

    def excess(log_worth: float) -> float:
        return math.log(float(band(log_worth).sum()) / total_hz)

    low, high, step = middle - 0.25, middle + 0.25, 0.5
    while excess(low) < 0.0:
        low, step = low - step, 2.0 * step
    step = 0.5
    while excess(high) > 0.0:
        if high > middle + _WITHOUT_LIMIT:  # the highest powers need all of it
            return least_hz, math.exp(high)
        high, step = high + step, 2.0 * step
    log_worth = brentq(excess, low, high, xtol=1e-7, rtol=1e-12)
    return band(log_worth), math.exp(log_worth)


def _least_band_slope(sending: Sending, airtime: FloatArray, least_hz: FloatArray) -> FloatArray:
    """By how much the least bandwidth changes with the air time, (K,), at most 0."""
    sends = sending.sends()
    safe = np.where(sends, airtime, 1.0)
    ratio = sending.most_watt * sending.gain_to_noise_hz_per_watt / np.where(sends, least_hz, 1.0)
    # Of the rate, per hertz, in nats; its series where the difference has no digits left.
    near = ratio < _NEAR
    gained = np.where(near, ratio**2 * (0.5 - ratio * 2.0 / 3.0), np.log1p(ratio) - ratio / (1.0 + ratio))
    found: FloatArray = np.where(sends, -_LN2 / (safe**2 * gained), 0.0)
    return found
