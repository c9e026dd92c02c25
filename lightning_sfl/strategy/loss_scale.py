"""What a client's loss is multiplied by before backward, beside its weight in the server's loss."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.optim import Optimizer

from lightning_sfl.cut.find import loss_of


def loss_scaler(precision: Precision) -> torch.amp.GradScaler | None:
    """The precision's loss scaler, which all parties share; None where losses are not scaled."""
    scaler: torch.amp.GradScaler | None = getattr(precision, "scaler", None)
    return scaler


class LossScale:
    """Runs backward on losses scaled as the trainer scales them.

    Gradients of both sides are those of the scaled loss, until they are unscaled for the step. The cut gradient is
    freed from all of it for the link, and scaled again by the client.

    Args:
        precision: The trainer's precision.
        accumulates: Batches whose gradients add up to that of one optimizer step; each counts with its share.

    Attributes:
        accumulates: See above.
        factor: What losses are multiplied by in the step at hand.
    """

    def __init__(self, precision: Precision, *, accumulates: int) -> None:
        self._precision = precision
        self.accumulates = accumulates
        self._scaler = loss_scaler(precision)
        self.factor = 1 / accumulates

    @property
    def is_dynamic(self) -> bool:
        """Whether it follows a scaler, which keeps gradients in the range of half precision."""
        return self._scaler is not None

    def begin(self) -> None:
        """Begin a step: the scale changes from step to step."""
        if self._scaler is not None:
            self.factor = self._scaler.get_scale() / self.accumulates

    def backward(self, module: pl.LightningModule, optimizer: Optimizer, output: object, weight: float) -> None:
        """Backpropagate the loss in what a training step returned, multiplied by its weight; in Lightning's order."""
        loss: Tensor = loss_of(output)
        if self.accumulates != 1:
            loss = loss / self.accumulates
        if weight != 1:
            loss = loss * weight
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        self._precision.backward(loss, module, optimizer)
