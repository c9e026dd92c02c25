"""The weights that the newest step of a run began with, where clients are sent none."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

WEIGHTS = "weights.ckpt"


class KeptWeights(pl.Callback):
    """Keeps a copy of the model as it was when the newest step began.

    Clients that run forward only are never sent their weights, so that a message log does not hold them.

    Attributes:
        weights: Weights and buffers, by name, on the CPU; None before the first step.
        step: That step, counted over the whole run.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] | None = None
        self.step = 0

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy them."""
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.state_dict().items()}
        self.step = batch.step

    def save(self, folder: Path) -> None:
        """Write them as a checkpoint that the audit of the log can be given."""
        torch.save({"state_dict": self.weights, "global_step": self.step}, folder / WEIGHTS)


def kept_weights(folder: Path) -> tuple[dict[str, Tensor] | None, int | None]:
    """What :meth:`KeptWeights.save` wrote, and its step; None for both where clients are sent their weights."""
    if not (folder / WEIGHTS).is_file():
        return None, None
    kept = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    return kept["state_dict"], kept["global_step"]
