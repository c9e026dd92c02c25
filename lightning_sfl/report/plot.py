"""The leakage-against-cost plot, as SVG."""

import dataclasses
import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lightning_sfl.report.leakage import IMAGES_IN, Leakage, Verdict
from lightning_sfl.report.report import CutRow, Report

_LEAK = "#b3261e"
_GREY = "#5f6368"
_HOLLOW = "white"


@dataclasses.dataclass(frozen=True)
class _Mark:
    """How a point is drawn."""

    shape: str
    colour: str
    fill: str


_MARKS = {
    Verdict.LEAKS: _Mark("o", _LEAK, _LEAK),
    Verdict.PARTLY: _Mark("D", _LEAK, _HOLLOW),
    Verdict.INCONCLUSIVE: _Mark("o", _GREY, _HOLLOW),
    Verdict.BOUNDED: _Mark("s", _GREY, _GREY),
}
"""By the verdict of a cut's strongest attack; shapes tell them apart without colours."""


def tradeoff_svg(report: Report) -> str:
    """Every cut's strongest attack on images against what a client computes and what crosses per sample.

    Cuts at which no attack on images ran are named above the plot; rows without costs have no place in it. Attacks on
    anything else are not drawn: they have another measure.
    """
    found = [(row, None if row.leakage is None else row.leakage.strongest) for row in report.rows]
    drawn = [(row, cell) for row, cell in found if cell is not None and row.smashed_byte_per_sample is not None]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasSVG(figure)
    compute, traffic = figure.subplots(1, 2, sharey=True)
    flops = [
        _known(row.client_forward_flop_per_sample) + _known(row.client_backward_flop_per_sample) for row, _ in drawn
    ]
    _panel(compute, "client FLOP per sample, forward and backward", drawn, flops)
    _panel(traffic, "smashed bytes per sample", drawn, [_known(row.smashed_byte_per_sample) for row, _ in drawn])
    compute.set_ylabel(f"{IMAGES_IN} of the strongest attack, 95 % interval")
    if missing := [row.cut for row, cell in found if cell is None and row.policy is None]:
        figure.suptitle(f"no attack on images ran at: {', '.join(missing)}", fontsize=9)
    if drawn:
        handles, labels = compute.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=len(named), fontsize=8, frameon=False
        )
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _known(cost: float | None) -> float:
    assert cost is not None  # rows without costs are left out
    return cost


def _panel(axis: Axes, label: str, drawn: Sequence[tuple[CutRow, Leakage]], costs: Sequence[float]) -> None:
    for place, ((row, cell), cost) in enumerate(zip(drawn, costs, strict=True)):
        mark = _MARKS[cell.verdict]
        if cell.value.bounds is not None:
            # Around its middle, not around the mean: rounding may leave a mean outside an interval of no width.
            low, high = cell.value.bounds
            axis.errorbar(cost, (low + high) / 2, yerr=(high - low) / 2, fmt="none", capsize=3, ecolor=mark.colour)
        axis.plot(
            cost,
            cell.best_guess.value.mean,
            linestyle="none",
            marker="_",
            markersize=14,
            markeredgewidth=2,
            color=_GREY,
            label="best guess without messages, at that cut",
        )
        axis.plot(
            cost,
            cell.value.mean,
            linestyle="none",
            marker=mark.shape,
            color=mark.colour,
            markerfacecolor=mark.fill,
            label=cell.verdict.value,
        )
        axis.annotate(
            row.cut,
            (cost, cell.value.mean),
            xytext=(7, 5 if place % 2 == 0 else -13),
            textcoords="offset points",
            fontsize=9,
        )
    # A logarithmic axis has no 0, which is what a client computes that only embeds or normalises.
    if drawn and all(cost > 0 for cost in costs):
        axis.set_xscale("log")
    elif drawn:
        axis.set_xscale("symlog", linthresh=min((cost for cost in costs if cost > 0), default=1.0))
    axis.set_xlabel(label)
    axis.grid(visible=True, alpha=0.25)
