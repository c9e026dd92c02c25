"""What a checkpoint holds beside Lightning's own, and what is refused before anything is overwritten.

Weights and optimizer state in a checkpoint are the global ones, under the module's own names, so that it loads in plain
Lightning. What one needs to go on bit for bit stands under a key of its own: the round at hand (every participant's
weights, buffers and optimizer state), where the clients are in their data, and the random states.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

Settings = dict[str, int | str]
"""The strategy's arguments that decide who trains when, by name."""


def check_settings(saved: Mapping[str, Any], settings: Settings, path: str) -> None:
    """Raise a MisconfigurationException unless a checkpoint is one of a run with these settings.

    Another cut is accepted; a checkpoint of plain Lightning, which holds none of this, never comes here.
    """
    for name, value in settings.items():
        if saved["settings"].get(name) != value:
            raise MisconfigurationException(
                f"ckpt_path={path!r} was saved with {name}={saved['settings'].get(name)!r}, this strategy has"
                f" {name}={value!r}, so the run cannot go on. Give {name}={saved['settings'].get(name)!r}, or load the"
                " checkpoint's weights (load_from_checkpoint) and start anew."
            )


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint saved now is saved after a step that a validation follows, and before that validation.

    Lightning leaves that validation out when it goes on from such a checkpoint. What it would have drawn at random (a
    seed for its loader at least) and told the callbacks would be missing.
    """
    if trainer.validating:  # the one that was due is under way
        return False
    loop = trainer.fit_loop.epoch_loop
    progress = cast(_ProcessedTracker, loop.batch_progress.current)
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and progress.completed < progress.processed and loop._should_check_val_fx(fetcher)


def run_validation(trainer: pl.Trainer) -> None:
    """Run the validation that was due, as the training loop runs it."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop
    first = connector._first_loop_iter
    loop.restarting = False  # it is run from its beginning, not gone on with
    trainer.validating = True
    loop.run()
    trainer.training = True
    connector._first_loop_iter = first


def plateau_state(trainer: pl.Trainer) -> dict[str, Any]:
    """What schedulers that follow a metric (`ReduceLROnPlateau`) need in order to go on from a checkpoint saved now.

    Lightning forgets the metrics, and therefore leaves out the updates of the epoch that it goes on with, and those
    that were due when the checkpoint was saved. In a validation none are due: it makes them itself when that has ended.
    """
    loop, epochs = trainer.fit_loop.epoch_loop, cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)
    batches = cast(_ProcessedTracker, loop.batch_progress.current)
    metrics = dict(trainer.callback_metrics)
    due: list[str] = []
    if loop._num_ready_batches_reached():  # means over an epoch are known now, and forgotten after it
        metrics |= loop._results.metrics(on_step=False)["callback"]
        due = ["epoch"]
    if epochs.completed == epochs.processed:  # the epoch's end has not begun
        due = ["step", *due] if batches.completed < batches.processed and not trainer.validating else []
    return {"metrics": metrics, "updates_due": due, "epoch": trainer.current_epoch}


def restore_metrics(trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
    """Let callbacks and schedulers see the metrics that there were."""
    metrics = {name: value.to(trainer.strategy.root_device) for name, value in state["metrics"].items()}
    trainer._logger_connector._callback_metrics.update(metrics)


def update_plateaus(trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
    """Make the updates that were due, and let the loop make those of the epoch that it goes on with."""
    epochs = cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)
    now, epochs.completed = epochs.completed, state["epoch"]  # every so many epochs, counted from when it was saved
    for interval in state["updates_due"]:
        trainer.fit_loop.epoch_loop.update_lr_schedulers(interval, update_plateau_schedulers=True)
    epochs.completed = now
    trainer.fit_loop._restarting = False


def begin_after_a_whole_epoch(trainer: pl.Trainer) -> None:
    """Have an epoch begun that goes on from a checkpoint of a finished one, under `max_steps` as under `max_epochs`.

    Under `max_steps` Lightning goes on within the finished epoch: it ends it twice, or makes it longer.
    """
    epochs = cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)
    if epochs.ready == epochs.processed:
        _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Have an epoch begun that goes on from a checkpoint of the last step of the one before.

    Lightning takes it for a part of that epoch: it is not counted in the checkpoints that are saved in it, so that a
    run which goes on from those is one epoch behind, and nobody is told of its start.
    """
    loop = trainer.fit_loop
    last = loop.epoch_loop.batch_progress.is_last_batch and loop.epoch_loop.restarted_on_train_batch_end
    if loop.restarted_mid_epoch and last:
        loop.reset_restart_stage()


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def put_back(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Give a module the weights and buffers it had."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(before[name])


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Say of a file that cannot be read as a checkpoint what may be wrong with it."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (RuntimeError, EOFError, OSError) as error:
        raise MisconfigurationException(
            f"ckpt_path={path!r} cannot be read as a checkpoint; its writing may have been cut short. Go on from an"
            f" earlier one. ({error})"
        ) from error
