"""Modules and data that recipes of the tests name."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from recipes.cnn.small_resnet import SmallResNet


class LooksAgain(pl.LightningModule):
    """A head that reads the images beside the features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(3 * 32 * 32, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        both = torch.cat([self.stem(images), images], dim=1)
        return cross_entropy(self.head(both.flatten(1)), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class NeedsTrainer(SmallResNet):
    """Its optimizer is laid out for the steps of the run."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]


class Grouped(SmallResNet):
    """Its optimizer and schedule come in a mapping, with a group per part."""

    def configure_optimizers(self):
        groups = [{"params": self.stem.parameters(), "lr": 0.01}, {"params": self.head.parameters()}]
        optimizer = torch.optim.Adam(groups, lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 5)}


class Dropping(SmallResNet):
    """With dropout in the first block."""

    def __init__(self, width: int = 2, learning_rate: float = 0.1) -> None:
        super().__init__(width=width, learning_rate=learning_rate)
        self.block1 = nn.Sequential(self.block1, nn.Dropout(0.3))


class TokenClassifier(pl.LightningModule):
    """Reads token ids, so no image can be rebuilt."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def _loss(self, batch):
        return cross_entropy(self.head(self.hidden(self.embedding(batch[0])).mean(1)), batch[1])

    def training_step(self, batch, batch_idx):
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Tokens(pl.LightningDataModule):
    """Random token ids with labels."""

    def _loader(self):
        draw = torch.Generator().manual_seed(0)
        records = TensorDataset(
            torch.randint(0, 16, (24, 5), generator=draw), torch.randint(0, 3, (24,), generator=draw)
        )
        return DataLoader(records, batch_size=4)

    train_dataloader = val_dataloader = _loader


class WritePredictions(BasePredictionWriter):
    """Writes what `predict` found to a file."""

    def __init__(self, folder: str) -> None:
        super().__init__(write_interval="epoch")
        self.folder = folder

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        torch.save(predictions, Path(self.folder) / "predictions.pt")


class OnMeta(SmallResNet):
    """Built without weights."""

    def __init__(self, width: int = 2) -> None:
        with torch.device("meta"):
            super().__init__(width=width)


class LooksAtValues(SmallResNet):
    """Its step stops at a loss that is not finite."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not torch.isfinite(loss):
            raise RuntimeError("the loss is not finite")
        return loss


class Counted(SmallResNet):
    """Counts how often it is made."""

    made = 0

    def __init__(self, width: int = 2) -> None:
        super().__init__(width=width)
        Counted.made += 1


class LongNames(pl.LightningModule):
    """Its modules have names that fill lines."""

    def __init__(self) -> None:
        super().__init__()
        name = "a_module_whose_name_is_long_enough_to_fill_a_good_part_of_a_line"
        self.add_module(name, nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
        self.run = getattr(self, name)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.run(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
