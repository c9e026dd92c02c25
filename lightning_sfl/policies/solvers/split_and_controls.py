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
from lightning_sfl.policies.solvers.split_sweep import Options, split_sweep
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

_CLOCKS = 5
_POWERS = 5
_POWER_STEP = 0.25
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

    def work(self, cut: IntArray) -> Work:
        """What it asks at these cuts, (K,)."""
        who = np.arange(len(cut))
        return Work(
            clock_s=self.clock_s[:, who, cut][:, None],
            bit=self.bit[:, who, cut][:, None],
            given_s=self.given_s[:, who, cut][:, None],
            weight=self.weight,
            floor_s=self.floor_s(cut)[:, None],
            clock_price=self.clock_price[who, cut][None],
            bit_price=self.bit_price[who, cut][None],
        )

    def value(self, cut: IntArray, limits: Limits, setting: Setting) -> float:
        """What cuts, (K,), and a setting cost."""
        own = self.own_price[np.arange(len(cut)), cut].sum() + self.base[cut.max()]
        return float(own + value_of(self.work(cut), limits, setting)[0])


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


def solve_split(problem: Round, limits: Limits, setting: Setting) -> IntArray:
    """The best cuts, (K,), of everybody's at this setting."""
    return split_sweep(_options(problem, limits, setting, setting.share, setting.second_per_bit))


def solve_split_and_controls(problem: Round, limits: Limits) -> Solution:
    """Cuts and settings of a low cost."""
    setting = even_setting(limits)
    cut = solve_split(problem, limits, setting)
    values = [problem.value(cut, limits, setting)]
    for _ in range(_MOST_SWEEPS):
        before = values[-1]
        tried_cut, tried = _split_block(problem, limits, cut, setting)
        if (value := problem.value(tried_cut, limits, tried)) < values[-1]:
            cut, setting = tried_cut, tried
            values.append(value)
        elif len(values) > 1:
            break  # the controls are already the best at these cuts
        tried = solve_controls(problem.work(cut), limits)
        if (value := problem.value(cut, limits, tried)) < values[-1]:
            setting = tried
            values.append(value)
        if values[-1] > before - _CHANGE * abs(before):
            break
    return Solution(cut=cut, setting=setting, values=tuple(values))


def _split_block(problem: Round, limits: Limits, cut: IntArray, setting: Setting) -> tuple[IntArray, Setting]:
    """The best cuts, each at some clock and power."""
    band = setting.band_hz
    clocks = limits.lowest_share ** np.linspace(0, 1, _CLOCKS if (limits.lowest_share < 1).any() else 1)[:, None]
    powers = _POWER_STEP ** np.arange(_POWERS if limits.second_per_bit is None else 1)[:, None]
    if limits.second_per_bit is None:
        levels = limits.second_per_bit_at(limits.most_watt * powers, band)
    else:
        levels = limits.second_per_bit[None]
    share = np.concatenate([setting.share, np.repeat(clocks, len(levels), axis=0)])
    x = np.concatenate([setting.second_per_bit, np.tile(levels, (len(clocks), 1))])
    cuts = problem.fits.shape[1]
    chosen = split_sweep(_options(problem, limits, setting, share, x), start=cut)  # the first are those of now
    level, who = chosen // cuts, np.arange(len(cut))
    found = Setting(share=share[level, who][None], second_per_bit=x[level, who][None], band_hz=band)
    return chosen % cuts, found


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
