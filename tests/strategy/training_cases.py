"""A strategy with a cut, and a callback that looks on."""

import lightning.pytorch as pl

from lightning_sfl import SplitFederatedStrategy


def strategy(**options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(**{"cut": "model.2", "num_clients": 3, **options})


class Each(pl.Callback):
    """Calls a function at the end of every training step."""

    def __init__(self, function) -> None:
        self.function = function

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.function(trainer, pl_module, outputs, batch)
