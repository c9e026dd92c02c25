"""Rounds and tables of clients in whatever loggers a run has."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

ROUND_METRICS = ("delay/round_s", "delay/simulated_s", "energy/*", "comm/*")


def prepare(loggers: Sequence[Logger]) -> None:
    """Let wandb draw what is logged once per round over the rounds."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.define_metric("round")
            for name in ROUND_METRICS:
                logger.experiment.define_metric(name, step_metric="round")


def log_metrics(loggers: Sequence[Logger], values: Mapping[str, float], step: int) -> None:
    """Log numbers at a step, however often steps are logged."""
    for logger in loggers:
        logger.log_metrics(dict(values), step=step)


def log_table(
    loggers: Sequence[Logger], columns: Sequence[str], rows: Sequence[Sequence[float | str]], *, name: str = "clients"
) -> None:
    """Log a table ``report/NAME``: as one where a logger has tables, as text, or else as NAME.csv beside its own."""
    for logger in loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if isinstance(logger, WandbLogger):
            logger.log_table(f"report/{name}", columns=list(columns), data=[list(row) for row in rows])
        elif hasattr(experiment, "add_text"):
            experiment.add_text(f"report/{name}", _markdown(columns, rows))
        elif (folder := getattr(logger, "log_dir", None) or logger.save_dir) is not None:
            path = Path(folder) / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([columns, *rows])


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[float | str]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    written = [[value if isinstance(value, str) else f"{value:g}" for value in row] for row in rows]
    return "\n".join([*lines, *(" | ".join(row) for row in written)])
