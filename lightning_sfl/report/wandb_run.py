"""The report in a wandb run: a table, a scatter plot and the pictures. Works offline."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from lightning_sfl.report.report import CutRow, Report


class WandbRun(Protocol):
    """What is needed of a wandb run (``WandbLogger.experiment``)."""

    summary: Any

    def log(self, data: dict[str, Any]) -> None:
        """Log values."""
        ...


def log_to_wandb(report: Report, run: WandbRun) -> None:
    """Log the report to a wandb run: `report/cuts`, `report/tradeoff`, `report/pictures`."""
    import wandb

    rows = [_flat(row, report.metric) for row in report.rows]
    table = wandb.Table(columns=list(rows[0]) if rows else [], data=[list(row.values()) for row in rows])
    pictures = [
        wandb.Image(
            np.concatenate([np.asarray(p.original, np.uint8), np.asarray(p.reconstruction, np.uint8)], axis=1),
            caption=f"{row.cut}: original, reconstruction, {p.psnr_db:.1f} dB",
        )
        for row in report.rows
        for p in row.leakage.pictures
    ]
    run.log(
        {
            "report/cuts": table,
            "report/tradeoff": wandb.plot.scatter(
                table, "smashed_byte_per_sample", "psnr_db", title="Leakage against smashed bytes per sample"
            ),
            "report/pictures": pictures,
        }
    )
    for row in report.rows:
        run.summary[f"leakage/{row.cut}/psnr_db"] = row.leakage.psnr_db.mean


def _flat(row: CutRow, metric: str) -> dict[str, float | str | None]:
    """A row of the table, by column."""
    leakage = row.leakage
    costs = dataclasses.asdict(dataclasses.replace(row, leakage=dataclasses.replace(leakage, pictures=())))
    del costs["leakage"]
    intervals = {"psnr_db": leakage.psnr_db, "ssim": leakage.ssim}
    spread = {
        f"{name}{end}": value
        for name, interval in intervals.items()
        for end, value in (("", interval.mean), ("_low", interval.low), ("_high", interval.high))
    }
    return {
        **{metric if name == "accuracy" else name: value for name, value in costs.items()},
        **spread,
        "baseline_psnr_db": leakage.baseline_psnr_db.mean,
        "baseline_ssim": leakage.baseline_ssim.mean,
        "verdict": leakage.verdict.value,
    }
