"""Splits, clocks, powers and bandwidths together: block coordinate descent of two blocks, each solved to its best.

The split's block does not take clocks and powers for given: what suits a client's cut of now suits no other, so that
nobody would ever move. A client chooses among its cuts, each at some clocks and powers between its lowest and its
highest and at those of now; the sweep over thresholds finds the best choice of all clients (Wei & Chen 2026, Alg. 2,
has such a grid). Then clocks, powers and bandwidths are solved for exactly at these cuts. Neither block can make the
cost rise. Together they reconstruct the online block coordinate descent of ASFL (arXiv 2603.04437), whose blocks are
split, clock, power and bandwidth.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from lightning_sfl.policies.solvers.controls import Limits, Setting, Work, solve_controls, value_of
from lightning_sfl.policies.solvers.split_options import Options
from lightning_sfl.policies.solvers.split_sweep import split_sweep
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

_CLOCKS = 4
_POWERS = 4
_POWER_STEP = 0.25
_THRESHOLDS = 16
_FEW = 400  # clients squared times cuts
_MOST_SWEEPS = 20
_CHANGE = 1e-3  # a smaller relative one ends it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """What a round asks of K clients at each of C cuts, in S stages that everybody waits for.

    Attributes:
        clock_s: Seconds at the highest clock, (S, K, C).
        bit: Bits sent, (S, K, C).
        given_s: Seconds that are what they are, (S, K, C).
        weight: What a second of every stage costs, (S,), above 0.
        own_price: What a client's cut costs whatever it is given, (K, C).
        clock_price: What computing at the highest clock costs, (K, C).
        bit_price: What a joule costs, times the bits sent, (K, C).
        base: What there is to pay for every deepest cut, (C,).
        fits: Which cuts each client can have, (K, C), at least one.
        floor_s: What every stage takes at least, (S,), of everybody's cuts; the split's block does not foresee it.
    """

    clock_s: FloatArray
    bit: FloatArray
    given_s: FloatArray
    weight: FloatArray
    own_price: FloatArray
    clock_price: FloatArray
    bit_price: FloatArray
    base: FloatArray
    fits: BoolArray
    floor_s: Callable[[IntArray], FloatArray]

    def work(self, cuts: IntArray) -> Work:
        """What it asks at M times everybody's cuts, (M, K)."""
        who = np.arange(cuts.shape[1])[None]
        return Work(
            clock_s=self.clock_s[:, who, cuts],
            bit=self.bit[:, who, cuts],
            given_s=self.given_s[:, who, cuts],
            weight=self.weight,
            floor_s=np.stack([self.floor_s(cut) for cut in cuts], axis=1),
            clock_price=self.clock_price[who, cuts],
            bit_price=self.bit_price[who, cuts],
        )

    def values(self, cuts: IntArray, limits: Limits, setting: Setting) -> FloatArray:
        """What cuts, (M, K), and settings cost, (M,)."""
        own = self.own_price[np.arange(cuts.shape[1])[None], cuts].sum(axis=1) + self.base[cuts.max(axis=1)]
        found: FloatArray = own + value_of(self.work(cuts), limits, setting)
        return found

    def value(self, cut: IntArray, limits: Limits, setting: Setting) -> float:
        """What cuts, (K,), and a setting cost."""
        return float(self.values(cut[None], limits, setting)[0])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """What was found.

    Attributes:
        cut: Everybody's cut, (K,).
        setting: What everybody is given, (1, K).
        values: What it cost after every block.
    """

    cut: IntArray
    setting: Setting
    values: tuple[float, ...]


def even_setting(limits: Limits) -> Setting:
    """Everybody at the highest clock and power, with a like part of the band."""
    clients = len(limits.band_hz)
    band = limits.band_hz if limits.total_hz is None else np.full(clients, limits.total_hz / clients)
    return Setting(
        share=np.ones((1, clients)), second_per_bit=limits.least_second_per_bit(band)[None], band_hz=band[None]
    )


def solve_split(problem: Round, limits: Limits, setting: Setting, *, most_thresholds: int | None = None) -> IntArray:
    """The best cuts, (K,), of everybody's at this setting."""
    options = _options(problem, limits, setting, setting.share, setting.second_per_bit)
    return split_sweep(options, most_thresholds=most_thresholds)


def solve_split_and_controls(problem: Round, limits: Limits) -> Solution:
    """Cuts and settings of a low cost."""
    setting = even_setting(limits)
    cut = solve_split(problem, limits, setting, most_thresholds=_THRESHOLDS)
    values = [problem.value(cut, limits, setting)]
    for _ in range(_MOST_SWEEPS):
        before = values[-1]
        tried_cut, tried = _split_block(problem, limits, cut, setting)
        if (value := problem.value(tried_cut, limits, tried)) < values[-1]:
            cut, setting = tried_cut, tried
            values.append(value)
        elif len(values) > 1:
            break  # the controls are already the best at these cuts
        tried = solve_controls(problem.work(cut[None]), limits)
        if (value := problem.value(cut, limits, tried)) < values[-1]:
            setting = tried
            values.append(value)
        if values[-1] > before - _CHANGE * abs(before):
            break
    while (near := _near(problem, cut)) is not None:
        settings = solve_controls(problem.work(near), limits)
        costs = problem.values(near, limits, settings)
        best = int(costs.argmin())
        if costs[best] >= values[-1] - _CHANGE * abs(values[-1]):
            break
        cut, setting = near[best], settings.of(best)
        values.append(float(costs[best]))
    return Solution(cut=cut, setting=setting, values=tuple(values))


def _near(problem: Round, cut: IntArray) -> IntArray | None:
    """All cuts that differ in one client from these, and all common ones, (M, K), where clients are few.

    The split's block gives a client that moves the band that it has. Where there are few, one of them may need so much
    more or less that all others' parts of the band change; where there are many, it makes no difference.
    """
    clients, cuts = problem.fits.shape
    if clients**2 * cuts > _FEW:
        return None
    moved = np.tile(cut, (clients * cuts, 1))
    moved[np.arange(clients * cuts), np.repeat(np.arange(clients), cuts)] = np.tile(np.arange(cuts), clients)
    near = np.concatenate([moved, np.tile(np.arange(cuts)[:, None], (1, clients))])
    allowed: IntArray = near[problem.fits[np.arange(clients)[None], near].all(axis=1)]
    return allowed


def solve_within(problem: Round, limits: Limits, most_joule: FloatArray) -> Solution:
    """The cuts, clocks and powers of a grid that take least time with no client above its energy, in a like band.

    A client that can keep to it nowhere takes what needs least.

    Args:
        problem: At a price of 1 per second and per joule, (K,).
        limits: Within what clients are controlled.
        most_joule: What each may take, (K,).
    """
    setting = even_setting(limits)
    share, x = _levels(limits, setting.band_hz)
    options = _options(problem, limits, setting, share, x)
    own = np.tile(problem.own_price, len(share))
    joule = np.where(np.isfinite(options.cost), options.cost - own, np.inf)
    within = joule <= np.maximum(most_joule, joule.min(axis=1))[:, None]
    chosen = split_sweep(dataclasses.replace(options, cost=np.where(within, own, np.inf)), most_thresholds=_THRESHOLDS)
    cut, found = _taken(chosen, problem, share, x, setting.band_hz)
    return Solution(cut=cut, setting=found, values=(problem.value(cut, limits, found),))


def _split_block(problem: Round, limits: Limits, cut: IntArray, setting: Setting) -> tuple[IntArray, Setting]:
    """The best cuts, each at some clock and power."""
    shares, levels = _levels(limits, setting.band_hz)
    share, x = np.concatenate([setting.share, shares]), np.concatenate([setting.second_per_bit, levels])
    # The first options are those of now. Few thresholds do: clocks and powers are solved for exactly afterwards.
    chosen = split_sweep(_options(problem, limits, setting, share, x), start=cut, most_thresholds=_THRESHOLDS)
    return _taken(chosen, problem, share, x, setting.band_hz)


def _levels(limits: Limits, band: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Clocks, as shares, and seconds per bit that a client is offered in its band, (L, K) each."""
    clocks = limits.lowest_share ** np.linspace(0, 1, _CLOCKS if (limits.lowest_share < 1).any() else 1)[:, None]
    if limits.second_per_bit is None:
        powers = _POWER_STEP ** np.arange(_POWERS)[:, None]
        x = limits.second_per_bit_at(limits.most_watt * powers, band)
    else:
        x = limits.second_per_bit[None]
    return np.repeat(clocks, len(x), axis=0), np.tile(x, (len(clocks), 1))


def _taken(
    chosen: IntArray, problem: Round, share: FloatArray, x: FloatArray, band: FloatArray
) -> tuple[IntArray, Setting]:
    """Cuts and setting of options, (K,)."""
    cuts, who = problem.fits.shape[1], np.arange(len(chosen))
    level = chosen // cuts
    return chosen % cuts, Setting(share=share[level, who][None], second_per_bit=x[level, who][None], band_hz=band)


def _options(problem: Round, limits: Limits, setting: Setting, share: FloatArray, x: FloatArray) -> Options:
    """Every cut at every level (L, K) of clock and seconds per bit; option l·C + c is cut c at level l."""
    levels, (clients, cuts) = len(share), problem.fits.shape
    by_level = share.T[:, :, None], x.T[:, :, None]  # (K, L, 1)
    joule = (limits.watt(x, setting.band_hz) * x).T[:, :, None]
    cost = problem.clock_price[:, None] * by_level[0] ** 2 + problem.bit_price[:, None] * joule
    cost = np.where(problem.fits[:, None], cost + problem.own_price[:, None], np.inf)
    time_s = problem.clock_s[:, :, None] / by_level[0] + problem.bit[:, :, None] * by_level[1]
    time_s = time_s + problem.given_s[:, :, None]
    return Options(
        cost=cost.reshape(clients, levels * cuts),
        time_s=time_s.reshape(len(problem.weight), clients, levels * cuts),
        weight=problem.weight,
        depth=np.tile(np.arange(cuts), levels),
        base=problem.base,
        floor_s=np.zeros(len(problem.weight)),
    )
