"""Handwritten digits that need no download: scikit-learn's 1,797 8x8 images, enlarged to 32x32."""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

Records = tuple[Tensor, ...]


class Digits(pl.LightningDataModule):
    """Digits as images of shape (1, 32, 32) with values in [0, 1], labels 0 to 9, mixed and split once and for all.

    Args:
        batch_size: Samples per batch; of a client where the training is split federated.
        validation_samples: How many of the 1,797 samples are held out for validation.
    """

    def __init__(self, batch_size: int = 16, validation_samples: int = 297) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.validation_samples = validation_samples

    @override
    def setup(self, stage: str) -> None:
        digits = load_digits()
        pixels_BHW = torch.tensor(digits.images, dtype=torch.float32) / 16
        images = interpolate(
            pixels_BHW.unsqueeze(1), size=(32, 32), mode="bilinear", align_corners=False
        )  # (B, 1, 32, 32)
        labels = torch.tensor(digits.target, dtype=torch.int64)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        held_out, kept = order[: self.validation_samples], order[self.validation_samples :]
        self.training = TensorDataset(images[kept].clamp(0, 1), labels[kept])
        self.validation = TensorDataset(images[held_out].clamp(0, 1), labels[held_out])

    @override
    def train_dataloader(self) -> DataLoader[Records]:
        return DataLoader(self.training, batch_size=self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Records]:
        return DataLoader(self.validation, batch_size=256)

    @override
    def test_dataloader(self) -> DataLoader[Records]:
        return self.val_dataloader()

    @override
    def predict_dataloader(self) -> DataLoader[Records]:
        return self.val_dataloader()
