"""CIFAR-10 through torchvision, enlarged and augmented for a vision transformer."""

import hashlib
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2
from typing_extensions import override

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights were trained with
Records = tuple[Tensor, int]


class Cifar10(pl.LightningDataModule):
    """CIFAR-10, normalised as ImageNet; training images are augmented as in SFLAM's released code.

    Args:
        root: Folder that holds, or is to hold, ``cifar-10-batches-py``.
        batch_size: Samples per batch; of a client where the training is split federated.
        image_size: Height and width that images are enlarged to.
        training_samples: How many of the 50,000 training images are used, drawn once and for all.
        download: Whether to download what is not there. torchvision checks the official MD5 sums either way.
        partial: Whether to take what lies in the folder as it is: a part of the batches, or with other sums.
    """

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        image_size: int = 224,
        training_samples: int = 25_000,
        download: bool = True,
        partial: bool = False,
    ) -> None:
        super().__init__()
        self.root = root
        self.batch_size = batch_size
        self.image_size = image_size
        self.training_samples = training_samples
        self.download = download
        self.partial = partial

    @override
    def prepare_data(self) -> None:
        for train in (True, False):
            self._kind()(self.root, train=train, download=self.download)

    @override
    def setup(self, stage: str) -> None:
        size = (self.image_size, self.image_size)
        to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        augmented = [
            v2.RandomResizedCrop(size, scale=(0.9, 1.1)),
            v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1),
            v2.RandomRotation(10),
            v2.RandomHorizontalFlip(),
        ]
        kind = self._kind()
        photographs = kind(self.root, train=True, transform=v2.Compose([*augmented, *to_tensor]))
        if self.training_samples > len(photographs):
            raise ValueError(
                f"training_samples={self.training_samples} is not accepted: there are {len(photographs)} images."
            )
        order = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(0))
        self.training: Dataset[Records] = Subset(photographs, order[: self.training_samples].tolist())
        self.validation: Dataset[Records] = kind(
            self.root, train=False, transform=v2.Compose([v2.Resize(size), *to_tensor])
        )

    def _kind(self) -> type[CIFAR10]:
        return _part_in(Path(self.root)) if self.partial else CIFAR10

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


def _part_in(root: Path) -> type[CIFAR10]:
    """The data set of torchvision with those files that are in a folder, and the sums that they have."""
    folder = root / CIFAR10.base_folder

    def there(names: list[str]) -> list[list[str]]:
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            raise ValueError(f"partial=True: there is none of {', '.join(names)} in {str(folder)!r}.")
        return [[file.name, hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()] for file in files]

    class Part(CIFAR10):  # type: ignore[misc]
        train_list = there([name for name, _ in CIFAR10.train_list])
        test_list = there([name for name, _ in CIFAR10.test_list])
        meta: ClassVar = {**CIFAR10.meta, "md5": there([CIFAR10.meta["filename"]])[0][1]}

    return Part
