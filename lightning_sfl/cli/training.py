"""A training of `tradeoff`: in a folder of its own, and once, however often the command is interrupted."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jsonargparse import Namespace

from attacks.audit.circumstances import code, versions
from lightning_sfl.cli.job import Run, instantiate
from lightning_sfl.cli.kept_weights import KeptWeights
from lightning_sfl.cli.trained import CHECKPOINT, earlier_training, forget, keep_trained
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.report import CutRow

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI

Trained = tuple[CutRow, MessageLog]
"""What a training cost, and its log."""


def run_in(cli: "SplitCLI", folder: Path, settings: dict[str, object]) -> Run:
    """A run from the configuration, changed by ``settings`` (dotted keys), that logs to a folder."""
    csv_logger = Namespace(
        class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(save_dir=str(folder), name="", version="")
    )
    return instantiate(cli, {**settings, "trainer.default_root_dir": str(folder), "trainer.logger": csv_logger})


def trained_once(name: str, run: Run, folder: Path, train: Callable[[], Trained], *others: type) -> Trained:
    """Train, unless an earlier run of the command came to the training's end; the model is as trained then.

    Args:
        name: What is trained.
        run: The run.
        folder: Its folder.
        train: Trains it, and leaves log and checkpoint in the folder.
        others: Classes that the training depends on, beside those of model and data.
    """
    circumstances = {"code": code(type(run.model), type(run.data), *others), **versions()}
    earlier = earlier_training(folder, circumstances) if folder.exists() else None
    if isinstance(earlier, str):
        print(f"{name} is trained again: {earlier}.")
        forget(folder)
        earlier = None
    if earlier is None:
        row, log = train()
        keep_trained(folder, row, log, circumstances)
        return row, log
    print(f"{name} was trained in an earlier run, which is gone on with.")
    trained = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    run.model.load_state_dict(trained["state_dict"])
    return earlier


def fit(run: Run, folder: Path) -> tuple[MessageLog, float]:
    """Train, leave log and model in the folder, and validate.

    Returns:
        The log, and how many seconds the training took.
    """
    log = MessageLog(keep_rounds=1)  # the newest messages, made by the model as trained
    run.strategy.message_log = log
    kept = KeptWeights() if run.strategy.has_fixed_norms else None
    if kept is not None:
        run.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
    start = time.perf_counter()
    run.trainer.fit(run.model, datamodule=run.data)
    wall_s = time.perf_counter() - start
    run.trainer.save_checkpoint(folder / CHECKPOINT, weights_only=True)
    run.trainer.validate(run.model, datamodule=run.data, verbose=False)
    log.save(folder / "log")
    if kept is not None:
        kept.save(folder)
    return log, wall_s
