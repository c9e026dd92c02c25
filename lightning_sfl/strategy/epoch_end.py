"""Whoever looks at the module at an epoch's end sees the global model, however early the epoch was left off."""

from collections.abc import Callable

import lightning.pytorch as pl
from typing_extensions import override


class ReadAtEpochEnd(pl.Callback):
    """Stands before all other callbacks during a fit: no hook of a strategy runs between an epoch's steps and its end.

    Args:
        trainer: The trainer.
        read: Shows the global model.
    """

    def __init__(self, trainer: pl.Trainer, read: Callable[[], None]) -> None:
        self._read = read
        self._callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._callbacks.insert(0, self)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read()

    def undo(self) -> None:
        """Leave the trainer's callbacks as they were."""
        if self in self._callbacks:
            self._callbacks.remove(self)
