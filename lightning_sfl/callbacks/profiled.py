"""Measuring the profile of a run's model, once its cuts are known."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from lightning_sfl.cut.find import training_step
from lightning_sfl.strategy.autocast import train_step_context
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile


class _Skipped(Exception):
    """The step returned None, as Lightning has it for batches that are left out."""


def profile_of(
    module: pl.LightningModule, strategy: SplitFederatedStrategy, batches: Iterable[object]
) -> Profile | None:
    """Measure the module's profile on the first of these batches that is not skipped; None if all of them are.

    It is measured in the trainer's precision. The step has a trainer to look at, and logs nothing.
    """
    quiet = copy.copy(module.trainer)
    quiet.loggers = [DummyLogger()]

    def step(copied: nn.Module, own: Any) -> Any:
        _attach(copied, quiet)
        with train_step_context(strategy.precision_plugin, copied):
            output = training_step(copied, own)
        if output is None or (isinstance(output, Mapping) and output.get("loss") is None):
            raise _Skipped
        return output

    for batch in batches:
        try:
            return profile_cuts(module, batch, strategy.splits, strategy.optimizers[0], step=step)
        except _Skipped:
            continue
    return None


def _attach(copied: nn.Module, trainer: pl.Trainer) -> None:
    for part in copied.modules():
        if isinstance(part, pl.LightningModule):
            part._trainer = trainer
            part.log = part.log_dict = _nothing  # type: ignore[method-assign]


def _nothing(*_: object, **__: object) -> None:
    """In the place of ``self.log``."""
