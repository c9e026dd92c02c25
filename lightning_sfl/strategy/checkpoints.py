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
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

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


@contextmanager
def as_before_on_error(module: nn.Module) -> Iterator[None]:
    """Put a module's weights and buffers back if what is done here fails."""
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        yield
    except Exception:
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(before[name])
        raise
