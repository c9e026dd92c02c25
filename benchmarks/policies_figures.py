"""Figures of what policies were compared by."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from training_runs import Curve

_POINTS = 200
_INCH = 4.2
_MARKS = "osv^D<>PX*"


def save_accuracy(path: Path, panels: Mapping[str, Mapping[str, Sequence[Curve]]], target: float) -> None:
    """Accuracy over simulated seconds, a panel per title, a line per policy: median and extremes over seeds."""
    figure = Figure(figsize=(_INCH * len(panels), _INCH), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, each in found.items():
            low = min(curve.seconds[0] for curve in each)
            high = max(curve.seconds[-1] for curve in each)
            seconds = np.geomspace(low, high, _POINTS)
            best = np.array([_best_by(curve, seconds) for curve in each])  # (seeds, points)
            (line,) = axes.plot(seconds, np.median(best, axis=0), label=name)
            axes.fill_between(seconds, best.min(axis=0), best.max(axis=0), color=line.get_color(), alpha=0.15)
        axes.axhline(target, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="simulated seconds", ylabel="best accuracy so far", xscale="log")
        axes.legend(fontsize="x-small")
    _save(figure, path)


def save_delay_energy(path: Path, panels: Mapping[str, tuple[Mapping[str, Sequence[Curve]], float]]) -> None:
    """Simulated joules over seconds to a target, a panel per title with its target, a mark per seed."""
    figure = Figure(figsize=(_INCH * len(panels), _INCH), layout="constrained")
    titled = zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    for axes, (title, (found, target)) in titled:
        for place, (name, each) in enumerate(found.items()):
            seconds = [curve.seconds_to(target) for curve in each]
            joule = [curve.joule_to(target) for curve in each]
            missed = sum(not np.isfinite(value) for value in seconds)
            label = f"{name} ({missed} missed)" if missed else name
            axes.plot(seconds, joule, _MARKS[place % len(_MARKS)], label=label, markersize=5)
        axes.set(title=title, xlabel="simulated seconds to target", ylabel="joules of all clients to target")
        axes.set(xscale="log", yscale="log")
    figure.axes[0].legend(fontsize="x-small")
    _save(figure, path)


def save_front(path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> None:
    """Joules over seconds of a round, a panel per title, a line per policy over its weights."""
    figure = Figure(figsize=(_INCH * len(panels), _INCH), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in found.items():
            axes.plot(*zip(*points, strict=True), "o-", label=name, markersize=4)
        axes.set(title=title, xlabel="seconds of a round", ylabel="joules of all clients", yscale="log")
    figure.axes[0].legend(fontsize="small")
    _save(figure, path)


def save_ratios(path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Times as slow as HASFL, a panel per title, a row per policy: every case, and the median."""
    figure = Figure(figsize=(_INCH * len(panels), 0.7 * _INCH), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, values in enumerate(found.values()):
            finite = [value for value in values if np.isfinite(value)]
            axes.plot(finite, [place] * len(finite), ".", color="grey", alpha=0.4)
            if np.isfinite(median := statistics.median(values)):  # what never reaches is infinitely slow
                axes.plot(median, place, "|", color="black", markersize=14)
        axes.set(title=title, xlabel="times as slow as HASFL", xscale="log", yticks=range(len(found)))
        axes.set_yticklabels(found)
        axes.axvline(1.0, color="grey", linewidth=0.8, linestyle=":")
    _save(figure, path)


def _best_by(curve: Curve, seconds: np.ndarray) -> np.ndarray:
    """The best accuracy measured by then; 0 before the first measurement, the last one's after it."""
    best = np.concatenate([[0.0], np.maximum.accumulate(curve.accuracy)])
    found: np.ndarray = best[np.searchsorted(curve.seconds, seconds, side="right")]
    return found


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(path)
    print(f"Saved {path}")
