"""The profile of a model in training, at the cuts that its run uses."""

from typing import Any

import lightning.pytorch as pl
from torch import nn

from lightning_sfl.cut.find import training_step
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile


def profile_of(module: pl.LightningModule, strategy: SplitFederatedStrategy, batch: object) -> Profile:
    """Measure the module's profile on a client's batch, in the trainer's precision."""

    def step(copied: nn.Module, own: Any) -> Any:
        with strategy.precision_plugin.train_step_context():
            return training_step(copied, own)

    return profile_cuts(module, batch, strategy.splits, strategy.optimizers[0], step=step)
