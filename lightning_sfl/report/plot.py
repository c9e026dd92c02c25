"""The leakage-against-cost plot, as SVG."""

import io

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lightning_sfl.report.report import Report


def tradeoff_svg(report: Report) -> str:
    """PSNR of the reconstructions against what a client computes and what crosses per sample, one point per cut."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    compute, traffic = figure.subplots(1, 2, sharey=True)
    for axis, label, values in (
        (
            compute,
            "client FLOP per sample, forward and backward",
            [row.client_forward_flop_per_sample + row.client_backward_flop_per_sample for row in report.rows],
        ),
        (traffic, "smashed bytes per sample", [row.smashed_byte_per_sample for row in report.rows]),
    ):
        for place, (row, value) in enumerate(zip(report.rows, values, strict=True)):
            psnr = row.leakage.psnr_db
            axis.errorbar(
                value,
                psnr.mean,
                yerr=[[psnr.mean - psnr.low], [psnr.high - psnr.mean]],
                fmt="o",
                capsize=3,
                color="#b3261e" if row.leakage.psnr_gain_db.low > 0 else "#5f6368",
            )
            axis.annotate(
                row.cut,
                (value, psnr.mean),
                xytext=(6, 5 if place % 2 == 0 else -13),
                textcoords="offset points",
                fontsize=9,
            )
        blind = max((row.leakage.baseline_psnr_db.mean for row in report.rows), default=0.0)
        axis.axhline(blind, linestyle="dashed", color="#9aa0a6", linewidth=1, label="best guess without messages")
        # A logarithmic axis has no 0, which is what a client computes that only embeds or normalises.
        least = min((value for value in values if value > 0), default=1.0)
        if all(value > 0 for value in values):
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=least)
        axis.set_xlabel(label)
        axis.grid(visible=True, alpha=0.25)
    compute.set_ylabel("PSNR of reconstruction (dB), 95 % interval")
    compute.legend(loc="best", fontsize=8, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
