"""The runs of ASFL and of what it is compared with, without training: made once, and kept as JSON in a folder."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from asfl_scenes import CLIENTS, MIDDLE, PLACES, AtOneCut, FadingName, Totals, drift_share, make_scene, totals

from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.decision import Policy
from lightning_sfl.policies.fixed import Fixed
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.myopic import Myopic
from lightning_sfl.policies.simulation import Scene, Trace, simulate
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.channel.seen import CSI

ALGORITHMS = {"split learning": "split_learning", "SplitFed-V1": "splitfed_v1", "SplitFed-V2": "splitfed_v2"}
TIGHT = (1.5, 0.3)  # budgets of delay and energy, times what latency-only takes
LIKE_FIXED = (1.0, 0.5)  # times what the best fixed cut takes
TRADE_OFFS = (0.1, 1.0, 10.0, 100.0)
APART = ", re-split apart"
ONE_CUT = ", clocks and powers alone"
"""All at the best fixed cut in hindsight."""
BY_MEANS = ", by means"
"""Deciding by the channel's mean gains."""
_HOPEFUL = 3  # cuts that are tried in all rounds, after all of them in an eighth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Totals):
    """What a policy comes to in one world.

    Attributes:
        environment: Devices and channel.
        fading: How the channel changes.
        seed: Of devices and channel.
        policy: The policy; "best cut" is the one with which it takes least time in hindsight.
        cut: The mean cut, counted from 0.
        delay_share: Of its budget, what rounds took on average; None: it has none.
        energy_share: Of its budget, what a client took on average, the mean over clients.
        most_energy_share: The largest of any client.
    """

    environment: str
    fading: FadingName
    seed: int
    policy: str
    cut: float
    delay_share: float | None = None
    energy_share: float | None = None
    most_energy_share: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What ASFL comes to with one V.

    Attributes:
        environment: Devices and channel.
        fading: How the channel changes.
        seed: Of devices and channel.
        trade_off: V.
        drift: Mean Φ.
        delay_queue: Mean Z of the second half of the rounds.
        energy_queue: Mean Q of all clients in them.
        delay_share: Of its budget, what rounds took on average.
        energy_share: Of its budget, what a client took on average, the mean over clients.
    """

    environment: str
    fading: FadingName
    seed: int
    trade_off: float
    drift: float
    delay_queue: float
    energy_queue: float
    delay_share: float
    energy_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One world, and for how many rounds."""

    environment: str
    fading: FadingName
    seed: int
    rounds: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.environment}-{self.fading}-seed{self.seed}-{self.rounds}rounds"

    def scene(self, algorithm: str = "splitfed_shared") -> Scene:
        """With like second moments per parameter."""
        return make_scene(self.environment, self.fading, self.seed, algorithm)


def cost_rows(
    folder: Path,
    *,
    places: Sequence[tuple[str, FadingName]] = PLACES,
    seeds: Iterable[int] = range(5),
    rounds: int = 40,
) -> list[Row]:
    """Every policy in every world; what is in the folder already is not made again."""
    found: list[Row] = []
    for place in _worlds(places, seeds, rounds):
        found += [Row(**entry) for entry in _kept(folder / f"{place.name}.json", functools.partial(_rows, place))]
    return found


def trade_off_points(
    folder: Path,
    *,
    places: Sequence[tuple[str, FadingName]] = (("wei_chen", "block"),),
    seeds: Iterable[int] = range(5),
    rounds: int = 200,
) -> list[Point]:
    """ASFL with every V; what is in the folder already is not made again."""
    found: list[Point] = []
    for place in _worlds(places, seeds, rounds):
        path = folder / f"trade-off-{place.name}.json"
        found += [Point(**entry) for entry in _kept(path, functools.partial(_points, place))]
    return found


def _worlds(places: Sequence[tuple[str, FadingName]], seeds: Iterable[int], rounds: int) -> Iterator[Place]:
    for seed, (environment, fading) in itertools.product(seeds, places):
        yield Place(environment=environment, fading=fading, seed=seed, rounds=rounds)


def _kept(path: Path, make: Callable[[], Sequence[Row] | Sequence[Point]]) -> list[dict[str, Any]]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [dataclasses.asdict(entry) for entry in make()]
        path.with_suffix(".unfinished").write_text(json.dumps(entries, indent=1))
        path.with_suffix(".unfinished").replace(path)
        print(f"{path.stem}: done", flush=True)
    entries = json.loads(path.read_text())
    return list(entries)


def _rows(place: Place) -> list[Row]:
    found = [_row(place, "FedAvg", place.scene("fedavg"), simulate(Fixed(), place.scene("fedavg"), place.rounds))]
    for label, algorithm in ALGORITHMS.items():
        scene = place.scene(algorithm)
        # Served one by one, a round is a sum over clients and not a maximum: fewer of them have a steady mean.
        rounds = -(-place.rounds // 8) if scene.world.rule.one_by_one else place.rounds
        found += _fixed_cuts(place, label, scene, rounds * CLIENTS if scene.world.rule.hands_on else rounds)[0]
    scene = place.scene()
    fixed, at_best = _fixed_cuts(place, "fixed", scene, place.rounds)
    found += fixed
    for resplits in (False, True):
        found += _decided(place, dataclasses.replace(scene, resplits=resplits), at_best)
    return found


def _decided(place: Place, scene: Scene, at_best: Trace) -> list[Row]:
    """By policies, of which ASFL has latency-only's delay and energy and the best fixed cut's to go by."""
    suffix = APART if scene.resplits else ""
    fast = simulate(LatencyOnly(resplit=scene.resplits), scene, place.rounds)
    found = [_row(place, f"latency only{suffix}", scene, fast)]
    tight = _Budgets(TIGHT[0] * float(np.median(fast.delay_s)), TIGHT[1] * np.median(fast.joule, axis=0))
    like_fixed = _Budgets(LIKE_FIXED[0] * float(at_best.delay_s.mean()), LIKE_FIXED[1] * at_best.joule.mean(axis=0))
    for label, budgets in (("ASFL", tight), ("ASFL at the best fixed cut's delay", like_fixed)):
        policy = budgets.asfl(resplit=scene.resplits)
        found.append(_within(place, label + suffix, scene, budgets, policy))
        if scene.resplits:
            continue
        best_cut = int(at_best.cut[0, 0])
        there = dataclasses.replace(scene, cut=np.full(CLIENTS, best_cut))
        alone = AtOneCut(policy=policy, cut=scene.world.profile.cuts[best_cut])
        found.append(_within(place, label + ONE_CUT, there, budgets, alone))
        if place.fading == "fast":
            found.append(_within(place, label + BY_MEANS, scene, budgets, policy, csi="statistical"))
    found.append(_within(place, f"myopic{suffix}", scene, tight, tight.myopic(resplit=scene.resplits)))
    return found


def _fixed_cuts(place: Place, label: str, scene: Scene, rounds: int) -> tuple[list[Row], Trace]:
    """At the best cut in hindsight, and in the middle."""
    cuts = range(len(scene.world.profile.cuts))
    few = _at_cuts(scene, cuts, -(-rounds // 8))
    best = sorted(cuts, key=lambda cut: totals(scene, few[cut]).total_s)[:_HOPEFUL]
    found = _at_cuts(scene, {*best, MIDDLE}, rounds)
    trace = found[min(best, key=lambda cut: totals(scene, found[cut]).total_s)]
    rows = [_row(place, f"{label}, best cut", scene, trace), _row(place, f"{label}, middle cut", scene, found[MIDDLE])]
    return rows, trace


def _at_cuts(scene: Scene, cuts: Iterable[int], rounds: int) -> dict[int, Trace]:
    """What happens at common cuts, each in force from the start."""
    clients = len(scene.cut)
    there = {cut: dataclasses.replace(scene, cut=np.full(clients, cut)) for cut in cuts}
    return {cut: simulate(Fixed(), own, rounds) for cut, own in there.items()}


@dataclasses.dataclass(frozen=True)
class _Budgets:
    """Of a round's delay and of every client's energy in it."""

    delay_s: float
    joule: FloatArray

    def asfl(self, *, resplit: bool, trade_off: float = 1.0) -> ASFL:
        return ASFL(
            delay_budget_s=self.delay_s,
            energy_budget_joule=self.joule.tolist(),
            trade_off=trade_off,
            resplit=resplit,
        )

    def myopic(self, *, resplit: bool) -> Myopic:
        return Myopic(delay_budget_s=self.delay_s, energy_budget_joule=self.joule.tolist(), resplit=resplit)


def _within(
    place: Place, label: str, scene: Scene, budgets: _Budgets, policy: Policy, csi: CSI = "instantaneous"
) -> Row:
    trace = simulate(policy, scene, place.rounds, csi=csi)
    energy = trace.joule.mean(axis=0) / budgets.joule
    return dataclasses.replace(
        _row(place, label, scene, trace),
        delay_share=float(trace.delay_s.mean()) / budgets.delay_s,
        energy_share=float(energy.mean()),
        most_energy_share=float(energy.max()),
    )


def _row(place: Place, label: str, scene: Scene, trace: Trace) -> Row:
    found = totals(scene, trace)
    return Row(
        environment=place.environment,
        fading=place.fading,
        seed=place.seed,
        policy=label,
        **dataclasses.asdict(found),
        cut=float(trace.cut.mean()),
    )


def _points(place: Place) -> list[Point]:
    """Like second moments per layer, so that cuts differ enough in drift for there to be something to trade."""
    scene = make_scene(place.environment, place.fading, place.seed, "splitfed_shared", "per layer")
    fast = simulate(LatencyOnly(resplit=False), scene, min(place.rounds, 40))
    budgets = _Budgets(TIGHT[0] * float(np.median(fast.delay_s)), TIGHT[1] * np.median(fast.joule, axis=0))
    found = []
    for trade_off in TRADE_OFFS:
        trace = simulate(budgets.asfl(resplit=False, trade_off=trade_off), scene, place.rounds)
        later = trace.figures[len(trace.figures) // 2 :]
        found.append(
            Point(
                environment=place.environment,
                fading=place.fading,
                seed=place.seed,
                trade_off=trade_off,
                drift=drift_share(scene, trace),
                delay_queue=float(np.mean([figures["delay_queue"] for figures in later])),
                energy_queue=float(np.mean([figures["energy_queue"] for figures in later])),
                delay_share=float(trace.delay_s.mean()) / budgets.delay_s,
                energy_share=float((trace.joule.mean(axis=0) / budgets.joule).mean()),
            )
        )
    return found
