"""The report in a wandb run: tables, a scatter plot and the pictures. Works offline."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from lightning_sfl.report.leakage import CutLeakage, Interval, Leakage, Picture
from lightning_sfl.report.pictures import shown
from lightning_sfl.report.report import CutRow, Report

Cells = dict[str, float | str | None]
"""A row of a table, by column."""


class WandbRun(Protocol):
    """What is needed of a wandb run (``WandbLogger.experiment``)."""

    summary: Any

    def log(self, data: dict[str, Any]) -> None:
        """Log values."""
        ...


def log_to_wandb(report: Report, run: WandbRun) -> None:
    """Log the report to a wandb run.

    As `report/cuts`, `report/leakage`, `report/tradeoff` and `report/pictures`; and `report/decisions`, if there are
    any.
    """
    import wandb

    def table(rows: list[Cells]) -> wandb.Table:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        return wandb.Table(columns=[*columns], data=[[row.get(column) for column in columns] for row in rows])

    attacked = [(row, row.leakage) for row in report.rows if row.leakage is not None]
    strongest = [(row, found.strongest) for row, found in attacked if found.strongest is not None]
    points: list[Cells] = [
        {
            "cut": row.cut,
            "attack": cell.attack,
            "smashed_byte_per_sample": row.smashed_byte_per_sample,
            "psnr_db": cell.value.mean,
        }
        for row, cell in strongest
    ]
    decisions: list[Cells] = [dataclasses.asdict(decision) for row in report.rows for decision in row.decisions]
    run.log(
        {
            **({"report/decisions": table(decisions)} if decisions else {}),
            "report/cuts": table([_costs(row, report.metric) for row in report.rows]),
            "report/leakage": table([_cell(row.cut, cell) for row, found in attacked for cell in found.cells]),
            "report/tradeoff": wandb.plot.scatter(
                table(points),
                "smashed_byte_per_sample",
                "psnr_db",
                title="Strongest attack on images against smashed bytes per sample",
            ),
            "report/pictures": [
                wandb.Image(_side_by_side(picture), caption=_caption(row.cut, cell, picture))
                for row, found in attacked
                for cell in _strongest_first(found)
                for picture in cell.pictures
            ],
        }
    )
    for row, cell in strongest:
        run.summary[f"leakage/{row.cut}/psnr_db"] = cell.value.mean


def _costs(row: CutRow, metric: str) -> Cells:
    """A cut's costs, and what its strongest attack on images did."""
    costs = dataclasses.asdict(dataclasses.replace(row, leakage=None))
    del costs["leakage"], costs["decisions"]
    named: Cells = {metric if name == "accuracy" else name: value for name, value in costs.items()}
    cell = None if row.leakage is None else row.leakage.strongest
    if cell is None:
        return named
    return {
        **named,
        "strongest_attack": cell.attack,
        **_spread("psnr_db", cell.value),
        "baseline_psnr_db": cell.best_guess.value.mean,
        **_spread("gain_db", cell.gain),
        "verdict": cell.verdict.value,
    }


def _cell(cut: str, cell: Leakage) -> Cells:
    further = {column: end for name, value in cell.others.items() for column, end in _spread(name, value).items()}
    return {
        "cut": cut,
        "attack": cell.attack,
        "recovers": cell.recovers,
        "measure": cell.measure,
        **_spread("value", cell.value),
        "baseline": cell.baseline,
        "baseline_value": cell.best_guess.value.mean,
        **_spread("gain", cell.gain),
        "p_value": cell.p_value,
        "p_adjusted": cell.p_adjusted,
        "worst_record": cell.worst_record,
        "threshold": cell.threshold,
        "share_recovered": cell.share_recovered,
        "control": None if cell.control is None else cell.control.value,
        "control_needed": None if cell.control is None else cell.control.needed,
        "records": cell.value.records,
        "clients": cell.value.clients,
        "parties": ", ".join(cell.parties),
        "budget": cell.budget,
        "cpu_s": cell.cpu_s,
        "verdict": cell.verdict.value,
        "reason": cell.reason,
        **further,
    }


def _spread(name: str, interval: Interval) -> Cells:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _strongest_first(found: CutLeakage) -> list[Leakage]:
    return [*([] if found.strongest is None else [found.strongest]), *found.others]


def _side_by_side(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.concatenate([shown(picture.original), shown(picture.reconstruction)], axis=1)


def _caption(cut: str, cell: Leakage, picture: Picture) -> str:
    which = f" {picture.which} record," if picture.which else ""
    return f"{cut}, {cell.attack}:{which} original and reconstruction, {picture.psnr_db:.1f} dB"
