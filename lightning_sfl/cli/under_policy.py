"""`tradeoff` of a recipe with a policy: every cut without it, and one more training in which it decides."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lightning_sfl.callbacks.adaptive_split import COLUMNS, AdaptiveSplit
from lightning_sfl.cli.job import Run, metric_of, row
from lightning_sfl.cli.training import Trained, fit, run_in, trained_once
from lightning_sfl.report.leakage import CutLeakage
from lightning_sfl.report.report import CutRow, DecisionRow

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI

FOLDER = "policy"
"""Where log, model and metrics of the training under the policy are left, beside those of the cuts."""


def policy_among(trainer: pl.Trainer) -> AdaptiveSplit | None:
    """The trainer's callback that lets a policy decide, if there is one; Lightning refuses two."""
    return next((callback for callback in _callbacks(trainer) if isinstance(callback, AdaptiveSplit)), None)


def check_policy(run: Run) -> None:
    """Raise what training under the policy would raise at its start.

    Raises:
        MisconfigurationException: The policy has nothing to decide in this run, or no world to decide in.
        ValueError: There is no cut to begin with.
    """
    adaptive = policy_among(run.trainer)
    if adaptive is None:
        return
    adaptive.setup(run.trainer, run.model, "fit")
    if run.strategy.cut is None:
        raise ValueError(
            "trainer.strategy.init_args.cut=null is not accepted beside AdaptiveSplit: name the cut of the first round,"
            " before which the policy knows nothing."
        )


def without_policy(run: Run) -> Run:
    """The same run, whose cut stays where it is."""
    kept = [callback for callback in _callbacks(run.trainer) if not isinstance(callback, AdaptiveSplit)]
    run.trainer.callbacks = kept  # type: ignore[attr-defined]
    return run


def row_name(adaptive: AdaptiveSplit, cuts: Collection[str]) -> str:
    """What the policy's row is called, which is not what a cut is called."""
    name = type(adaptive.policy).__name__
    while name in cuts:
        name += " (policy)"
    return name


def train_under_policy(cli: "SplitCLI", name: str, folder: Path) -> CutRow:
    """Train as the recipe's policy decides, from the recipe's own cut on; a row of this name."""
    run = run_in(cli, folder, {})
    adaptive = policy_among(run.trainer)
    assert adaptive is not None

    def train() -> Trained:
        log, wall_s = fit(run, folder)
        costs = row(
            None,
            CutLeakage(cut=name, cells=(), not_run=(), wall_s=0.0),
            run=run,
            accuracy=metric_of(run.trainer, cli.config["tradeoff"].report.metric),
            rounds=run.strategy.rounds,
            train_wall_s=wall_s,
        )
        decisions = tuple(DecisionRow(**dict(zip(COLUMNS, found, strict=True))) for found in adaptive.decisions)
        policy = type(adaptive.policy).__name__
        return dataclasses.replace(costs, leakage=None, policy=policy, decisions=decisions), log

    return trained_once(name, run, folder, train, type(adaptive.policy))[0]


def note_on(under_policy: CutRow) -> str:
    """What a reader must know of the policy's row."""
    return (
        f"{under_policy.cut} is the policy's row: one training in which it moved the cuts, and whatever else it"
        " decides, so that figures of a single cut have no place there. It was not attacked; 'lightning-sfl audit"
        f" --log {FOLDER}/log' attacks the messages of its last round, at every cut that was in force then."
    )


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    found: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found
