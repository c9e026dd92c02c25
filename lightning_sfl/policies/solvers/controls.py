"""Clock, power and bandwidth for given splits, all at once: a convex problem in their logarithms.

    min  Σ_s weight_s T_s + Σ_i [ e_i φ_i² + q_i p_i x_i ]
    s.t. t_s,i = a_s,i / φ_i + b_s,i x_i + c_s,i ≤ T_s,   φ_lowest ≤ φ_i ≤ 1,   p_i ≤ p_most,   Σ_i W_i ≤ W

Client i computes at the share φ of its highest clock, and a bit takes it x seconds in a band of W hertz, for which it
sends with p = W/g (e^k - 1) watts, g being its |h|²/N0 and k = ln 2 / (W x) its nats per symbol (Shannon; Wei & Chen
2026, eqs. 1-10 and their inversion for energy). Computing takes e φ² joules (G f³ times a time that goes with 1/f).

In a = log φ, b = log x, w = log W everything is convex: times and e φ² are sums of exponentials, the energy of a bit is
a power series in e^-(b+w) with positive coefficients, and the least b that the highest power allows is convex in w.
(Given thresholds T, each of clock, power and bandwidth can be solved for in turn, as ASFL's block coordinate descent is
reconstructed to do; but what all wait for is a maximum, at which such a descent may stop short of the optimum. Together
it cannot.)

It is solved by an interior-point method (logarithmic barrier, damped Newton steps), as its Hessian is a 3x3 block per
client with a few rows for what is common, so that a step is linear in the clients; SciPy's general solvers take the
cube of their number. The tests compare it with those. Many problems of the same clients are solved at once, (M, K).
"""

import dataclasses
import functools

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray

_LN2 = float(np.log(2.0))
_GAP = 1e-4  # of the objective
_GROWTH = 10.0  # of the barrier's sharpness, from one centre to the next
_MOST_CENTRES = 20  # about 6 is usual
_MOST_STEPS = 40  # for one centre; a handful is usual
_CENTRED = 1e-3  # half the squared Newton decrement
_ROUGHLY = 0.3  # the same on the way to the last centre
_NOTHING = 1e-9  # of the longest stage
_USED = 0.9  # of its room, that a constraint may lose on the way to where the next centre is about to be
_KEPT = 0.02  # of its room, that a constraint keeps in one step
_SHORTEST = 1e-8  # share of a Newton step below which there is none
_SAME = 1e-9  # of the highest clock, within which the lowest is the same
_SMALL = 1e-5  # nats per symbol below which differences are rounding


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """M problems of K clients, in which everybody waits for the slowest in S stages.

    Attributes:
        clock_s: Seconds at the highest clock, a, (S, M, K).
        bit: Bits sent, b, (S, M, K).
        given_s: Seconds that are what they are, c, (S, M, K).
        weight: What a second of every stage costs, (S,), above 0.
        floor_s: What every stage takes at least, (S, M).
        clock_price: What computing at the highest clock costs, e, (M, K).
        bit_price: What a joule of sending costs, times the bits sent, q, (M, K).
    """

    clock_s: FloatArray
    bit: FloatArray
    given_s: FloatArray
    weight: FloatArray
    floor_s: FloatArray
    clock_price: FloatArray
    bit_price: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """Within what K clients are controlled.

    Attributes:
        lowest_share: The lowest clock, as a share of the highest, (K,).
        most_watt: The highest power, (K,).
        gain_to_noise_hz_per_watt: g, (K,).
        band_hz: Every client's own band, (K,).
        total_hz: The band that they share instead; None: each has its own.
        second_per_bit: Where rates are given, 1 / rate, (K,), and power and bandwidth are not chosen; else None.
    """

    lowest_share: FloatArray
    most_watt: FloatArray
    gain_to_noise_hz_per_watt: FloatArray
    band_hz: FloatArray
    total_hz: float | None
    second_per_bit: FloatArray | None = None

    def least_second_per_bit(self, band_hz: FloatArray) -> FloatArray:
        """What a bit takes at the highest power in bands (..., K)."""
        if self.second_per_bit is not None:
            given: FloatArray = np.broadcast_to(self.second_per_bit, band_hz.shape)
            return given
        return self.second_per_bit_at(self.most_watt, band_hz)

    def second_per_bit_at(self, watt: FloatArray, band_hz: FloatArray) -> FloatArray:
        """What a bit takes at these powers in these bands, (..., K)."""
        found: FloatArray = _LN2 / (band_hz * np.log1p(watt * self.gain_to_noise_hz_per_watt / band_hz))
        return found

    def watt(self, second_per_bit: FloatArray, band_hz: FloatArray) -> FloatArray:
        """The powers that this takes, (..., K)."""
        if self.second_per_bit is not None:
            return np.broadcast_to(self.most_watt, band_hz.shape)
        needed = band_hz / self.gain_to_noise_hz_per_watt * np.expm1(_LN2 / (band_hz * second_per_bit))
        return np.minimum(needed, self.most_watt)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What clients are given, (M, K) each.

    Attributes:
        share: Of the highest clock.
        second_per_bit: 1 / rate.
        band_hz: Bandwidth.
    """

    share: FloatArray
    second_per_bit: FloatArray
    band_hz: FloatArray

    def of(self, problem: int) -> "Setting":
        """That of one of the problems."""
        return Setting(
            share=self.share[problem][None],
            second_per_bit=self.second_per_bit[problem][None],
            band_hz=self.band_hz[problem][None],
        )


def value_of(work: Work, limits: Limits, setting: Setting) -> FloatArray:
    """What M settings cost, (M,)."""
    longest = np.maximum(_times(work, setting.share, setting.second_per_bit).max(axis=2), work.floor_s)
    radio = work.bit_price * limits.watt(setting.second_per_bit, setting.band_hz) * setting.second_per_bit
    own: FloatArray = (work.clock_price * setting.share**2 + radio).sum(axis=1)
    total: FloatArray = own + work.weight @ longest
    return total


def solve_controls(work: Work, limits: Limits) -> Setting:
    """The best setting of every problem, to within a share of 1e-4 of its cost."""
    problem = _Barrier(work, limits)
    point = problem.start()
    sharpness = problem.constraints / problem.cost(point)
    before = None
    for _ in range(_MOST_CENTRES):
        centre = problem.centred(point, sharpness, _ROUGHLY)
        wanted = problem.constraints / (_GAP * problem.cost(centre))
        if (sharpness >= wanted / 2).all():
            break
        sharper = np.maximum(sharpness, np.minimum(sharpness * _GROWTH, wanted))
        point = centre if before is None else problem.ahead(before, (centre, sharpness), sharper)
        before, sharpness = (centre, sharpness), sharper
    return problem.setting(problem.centred(centre, sharpness, _CENTRED))


def _times(work: Work, share: FloatArray, second_per_bit: FloatArray) -> FloatArray:
    return work.clock_s / share + work.bit * second_per_bit + work.given_s


@dataclasses.dataclass(frozen=True, eq=False)
class _Point:
    """Logarithms (M, K, 3) of share, seconds per bit and bandwidth, and those of the thresholds, (S, M)."""

    logs: FloatArray
    most: FloatArray

    @functools.cached_property
    def given(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Share, seconds per bit and bandwidth, (M, K) each."""
        values = np.exp(self.logs)
        return values[..., 0], values[..., 1], values[..., 2]

    def moved(self, logs: FloatArray, most: FloatArray, length: FloatArray) -> "_Point":
        return _Point(self.logs + length[:, None, None] * logs, self.most + length * most)


class _Barrier:
    """The cost, times a sharpness, less the logarithms of how far every constraint is from being met with equality."""

    def __init__(self, work: Work, limits: Limits) -> None:
        self.work, self.limits = work, limits
        shape = work.clock_price.shape
        self.has_radio = limits.second_per_bit is None
        sends = (work.bit > 0).any(axis=0)
        free = np.zeros((*shape, 3), dtype=np.bool_)
        free[..., 0] = (limits.lowest_share < 1 - _SAME) & ((work.clock_s > 0).any(axis=0) | (work.clock_price > 0))
        free[..., 1] = sends if self.has_radio else False
        free[..., 2] = sends if self.has_radio and limits.total_hz is not None else False
        self.free: BoolArray = free
        self.sends = sends
        # Of the energy of a bit, (ln 2 / g) (e^k - 1)/k, the factor that is not a matter of choice.
        self.bit_price = work.bit_price * _LN2 / limits.gain_to_noise_hz_per_watt if self.has_radio else 0 * sends
        self.constraints = float(len(work.weight) * (shape[1] + 1) + 3 * shape[1] + 1)

    def start(self) -> _Point:
        """A point within all constraints."""
        work, limits = self.work, self.limits
        share = np.where(self.free[..., 0], np.sqrt(limits.lowest_share), 1.0)
        band = np.broadcast_to(limits.band_hz, share.shape)
        if limits.total_hz is not None:
            senders = self.sends.sum(axis=1, keepdims=True)
            part = limits.total_hz / (share.shape[1] + 1)
            band = np.where(self.sends, 0.9 * (limits.total_hz - part) / np.maximum(senders, 1), part / share.shape[1])
        x = limits.least_second_per_bit(band)
        if self.has_radio:
            x = np.where(self.sends, limits.second_per_bit_at(limits.most_watt / 2, band), x)
        times = _times(work, share, x)
        self.waits: BoolArray = times > 0
        # A stage in which nobody does anything is taken for one that takes next to nothing.
        self.floor = np.log(np.maximum(work.floor_s, _NOTHING * times.max()))
        most = np.maximum(self._log_times(share, x).max(axis=2), self.floor) + 0.3
        return _Point(np.log(np.stack([share, x, band], axis=-1)), most)

    def cost(self, point: _Point) -> FloatArray:
        """What is to be least, with the thresholds for the longest times, (M,)."""
        share, x, band = point.given
        own = self.work.clock_price * share**2
        if self.has_radio:
            k = _LN2 / (x * band)
            own = own + self.bit_price * np.expm1(k) / k
        else:
            own = own + self.work.bit_price * self.limits.most_watt * x
        total: FloatArray = own.sum(axis=1) + self.work.weight @ np.exp(point.most)
        return total

    def rooms(self, point: _Point) -> FloatArray:
        """How far every constraint is from being met with equality, (M, R); 1 where there is none."""
        with np.errstate(all="ignore"):  # a point that is tried may be far outside
            share, x, band = point.given
            stages = np.where(self.waits, point.most[..., None] - self._log_times(share, x), 1.0)
            rooms = [*stages, (point.most - self.floor).T]
            down, up = self._clock_room(point)
            rooms += [down, up, self._power_room(point), self._band_room(band)[:, None]]
            return np.concatenate(rooms, axis=1)

    def height(self, point: _Point, rooms: FloatArray, sharpness: FloatArray) -> FloatArray:
        """The barrier function, (M,); infinite or NaN outside."""
        with np.errstate(all="ignore"):
            total: FloatArray = sharpness * self.cost(point) - np.log(rooms).sum(axis=1)
            return total

    def centred(self, point: _Point, sharpness: FloatArray, precision: float) -> _Point:
        """The lowest point of the barrier functions, up to half the squared Newton decrement."""
        rooms = self.rooms(point)
        height = self.height(point, rooms, sharpness)
        for _ in range(_MOST_STEPS):
            logs, most, decrement = self._newton(point, sharpness)
            length = np.where(decrement > 2 * precision, 1.0, 0.0)
            while length.any():
                tried = point.moved(logs, most, length)
                left = self.rooms(tried)
                there = self.height(tried, left, sharpness)
                # A room that is used up at once is lost to rounding, and only doubles with every step.
                fine = (there <= height - 0.1 * length * decrement) & (left >= _KEPT * rooms).all(axis=1)
                if (fine | (length == 0)).all():
                    break
                length = np.where(fine, length, length / 2)
                length[length < _SHORTEST] = 0.0
            if not length.any():
                break
            point, rooms, height = tried, left, np.where(length > 0, there, height)
        return point

    def ahead(self, before: tuple[_Point, FloatArray], now: tuple[_Point, FloatArray], sharpness: FloatArray) -> _Point:
        """Where the next centre is about to be: in the reciprocal of the sharpness, centres lie nearly on a line."""
        (old, blunt), (point, sharp) = before, now
        passed = 1 / blunt - 1 / sharp
        share = np.divide(1 / sharp - 1 / sharpness, passed, out=np.zeros_like(passed), where=passed > 0)
        logs, most = point.logs - old.logs, point.most - old.most
        rooms = self.rooms(point)
        lost = (rooms - self.rooms(point.moved(logs, most, share))) / rooms
        share = share * np.minimum(1.0, _USED / np.maximum(lost.max(axis=1), _USED))
        tried = point.moved(logs, most, share)
        left = self.rooms(tried)
        fine = (left > 0).all(axis=1) & (self.height(tried, left, sharpness) < self.height(point, rooms, sharpness))
        return point.moved(logs, most, np.where(fine, share, 0.0))

    def setting(self, point: _Point) -> Setting:
        """The setting at a point, the whole band given away at unchanged rates."""
        share, x, band = point.given
        if self.limits.total_hz is None:
            band = np.broadcast_to(self.limits.band_hz, share.shape)
        else:
            band = band * (self.limits.total_hz / band.sum(axis=1, keepdims=True))
        least = self.limits.least_second_per_bit(band)
        share = np.where(self.free[..., 0], np.clip(share, self.limits.lowest_share, 1.0), 1.0)
        return Setting(share=share, second_per_bit=np.maximum(x, least) if self.has_radio else least, band_hz=band)

    def _log_times(self, share: FloatArray, x: FloatArray) -> FloatArray:
        return np.log(np.where(self.waits, _times(self.work, share, x), 1.0))

    def _clock_room(self, point: _Point) -> tuple[FloatArray, FloatArray]:
        """How far the logarithm of the clock is below its highest and above its lowest, (M, K)."""
        free, log_share = self.free[..., 0], point.logs[..., 0]
        return np.where(free, -log_share, 1.0), np.where(free, log_share - np.log(self.limits.lowest_share), 1.0)

    def _power_room(self, point: _Point) -> FloatArray:
        """How far the logarithm of a bit's seconds is above that at the highest power, (M, K)."""
        if not self.has_radio:
            return np.ones(point.logs.shape[:2])
        least = np.log(self.limits.least_second_per_bit(point.given[2]))
        return np.where(self.free[..., 1], point.logs[..., 1] - least, 1.0)

    def _band_room(self, band: FloatArray) -> FloatArray:
        """How far the logarithm of the band that is given away is below that of the whole, (M,)."""
        total_hz = self.limits.total_hz
        return np.ones(len(band)) if total_hz is None else -np.log(band.sum(axis=1) / total_hz)

    def _newton(self, point: _Point, sharpness: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Newton's step for logarithms and thresholds, and its decrement squared, (M,)."""
        work, stages = self.work, len(self.work.weight)
        share, x, band = point.given
        problems, clients = share.shape
        sharp = sharpness[:, None]
        slope, bend = np.zeros((problems, clients, 3)), np.zeros((problems, clients, 3, 3))
        slope[..., 0] = 2 * sharp * work.clock_price * share**2
        bend[..., 0, 0] = 2 * slope[..., 0]
        if self.has_radio:
            self._add_radio(slope, bend, point, sharp)
        down, up = self._clock_room(point)
        slope[..., 0] += 1 / down - 1 / up
        bend[..., 0, 0] += 1 / down**2 + 1 / up**2
        # Every stage of every client: log t_s,i ≤ log T_s.
        computing, sending = work.clock_s / share, work.bit * x
        total = np.where(self.waits, computing + sending + work.given_s, 1.0)
        room = np.where(self.waits, point.most[..., None] - np.log(total), np.inf)
        tight = 1 / room  # (S, M, K)
        # By how much log t_s,i changes with log φ and with log x.
        faster, longer = -computing / total, sending / total
        squared = tight**2
        by_share, by_x = (tight * faster).sum(axis=0), (tight * longer).sum(axis=0)
        slope[..., 0] += by_share
        slope[..., 1] += by_x
        curved = squared - tight
        bend[..., 0, 0] += (curved * faster**2).sum(axis=0) - by_share
        bend[..., 1, 1] += (curved * longer**2).sum(axis=0) + by_x
        cross = (curved * faster * longer).sum(axis=0)
        bend[..., 0, 1] += cross
        bend[..., 1, 0] += cross
        above = 1 / (point.most - self.floor)
        price = sharpness * work.weight[:, None] * np.exp(point.most)
        slope_s = price - tight.sum(axis=2) - above  # (S, M)
        bend_s = price + squared.sum(axis=2) + above**2
        # What is common: S thresholds, and one more unknown for the band, whose Hessian is the outer product of a row.
        common, outer = np.zeros((problems, clients, 3, stages + 1)), np.zeros(problems)
        common[..., 0, :stages] = np.moveaxis(-squared * faster, 0, -1)
        common[..., 1, :stages] = np.moveaxis(-squared * longer, 0, -1)
        if self.limits.total_hz is not None:
            part, room = band / band.sum(axis=1, keepdims=True), self._band_room(band)
            slope[..., 2] += part / room[:, None]
            bend[..., 2, 2] += part / room[:, None]
            common[..., 2, stages] = part
            outer = 1 / room**2 - 1 / room
        fixed = ~self.free
        slope[fixed] = 0.0
        common[fixed] = 0.0
        bend *= self.free[..., :, None] & self.free[..., None, :]
        diagonal = np.arange(3)
        bend[..., diagonal, diagonal] += fixed
        solved = np.linalg.solve(bend, np.concatenate([-slope[..., None], common], axis=-1))
        own, shared = solved[..., 0], solved[..., 1:]
        rows = common.copy()
        rows[..., stages] *= outer[:, None, None]
        middle = -np.einsum("mkjs,mkjt->mst", rows, shared)
        places = np.arange(stages)
        middle[:, places, places] += bend_s.T
        middle[:, stages, stages] -= 1.0
        right = np.zeros((problems, stages + 1))
        right[:, :stages] = -slope_s.T
        right -= np.einsum("mkjs,mkj->ms", rows, own)
        step = np.linalg.solve(middle, right[..., None])[..., 0]
        logs = own - np.einsum("mkjs,ms->mkj", shared, step)
        most = step[:, :stages].T
        decrement = -(slope * logs).sum(axis=(1, 2)) - (slope_s * most).sum(axis=0)
        return logs, most, decrement

    def _add_radio(self, slope: FloatArray, bend: FloatArray, point: _Point, sharp: FloatArray) -> None:
        """Energy, a function of b + w, and the least b that w allows."""
        _, x, band = point.given
        k = _LN2 / (x * band)
        grown, each = np.exp(k), np.expm1(k) / k
        price = sharp * self.bit_price
        falling = np.where(k < _SMALL, k / 2 + k**2 / 3, grown - each)  # its terms cancel out where k is small
        down, up = -price * falling, price * (k * grown - falling)
        ratio = self.limits.most_watt * self.limits.gain_to_noise_hz_per_watt / band
        most = np.log1p(ratio)
        falls = ratio / (1 + ratio) / most - 1  # of the least b with w
        bends = ratio * (ratio - most) / ((1 + ratio) * most) ** 2
        room = np.where(self.free[..., 1], 1 / self._power_room(point), 0.0)
        slope[..., 1] += down - room
        slope[..., 2] += down + room * falls
        bend[..., 1, 1] += up + room**2
        bend[..., 2, 2] += up + room**2 * falls**2 + room * bends
        cross = up - room**2 * falls
        bend[..., 1, 2] += cross
        bend[..., 2, 1] += cross
