"""The steps of an ordinary LightningModule that gives images a label each: nothing in them knows of a split."""

import lightning.pytorch as pl
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override


class ImageClassifier(pl.LightningModule):
    """Trains by the cross-entropy of what ``forward`` gives; logs ``train_loss``, ``val_loss`` and ``val_acc``."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    @override
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        labels: Tensor = self(batch[0]).argmax(dim=1)
        return labels

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        logits = self(images)
        self.log(f"{stage}_loss", cross_entropy(logits, labels))
        self.log(f"{stage}_acc", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)
