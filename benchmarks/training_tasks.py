"""Small tasks that policies are compared on in real training: handwritten digits, and 5,000 images of CIFAR-10.

Networks have no normalisation, as the bound has none. The images of CIFAR-10, 5,000 to train on and 1,000 to measure
with, are read by torchvision from ``cifar10/cifar-10-batches-py`` in the folder that ``LIGHTNING_SFL_DATA`` names.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import CIFAR10

VGG16_FLOP, VGG16_PARAMETERS, VGG16_FEATURES = 2 * 313.7e6, 15.245e6, 64 * 32 * 32
_DIGITS_TO_TRAIN_ON = 1500
Data = tuple[TensorDataset, TensorDataset]
"""To train on, and to measure with."""


class Network(pl.LightningModule):
    """A classifier trained by plain descent, as the bound has it."""

    def __init__(self, layers: nn.Sequential, learning_rate: float) -> None:
        super().__init__()
        self.model = layers
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The accuracy."""
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A network, data, and the accuracy that is to be reached.

    Attributes:
        network: Makes the network, from random weights.
        data: Reads the data.
        cuts: Where it can be cut.
        image_shape: (C, H, W).
        target: The accuracy that is to be reached.
        rounds: Within how many rounds.
    """

    network: Callable[[], Network]
    data: Callable[[], Data]
    cuts: tuple[str, ...]
    image_shape: tuple[int, int, int]
    target: float
    rounds: int

    @property
    def middle_cut(self) -> str:
        """The cut in the middle."""
        return self.cuts[len(self.cuts) // 2]

    @functools.cached_property
    def size(self) -> "Size":
        """How large the network is."""
        layers, image = self.network().model, torch.zeros(1, *self.image_shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layers(image)
        with torch.no_grad():
            features = layers[0](image).numel()
        parameters = sum(parameter.numel() for parameter in layers.parameters())
        return Size(
            flop=counter.get_total_flops() / VGG16_FLOP,
            weights=parameters / VGG16_PARAMETERS,
            features=features / VGG16_FEATURES,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large a network is, as shares of VGG-16 for images of 32x32.

    Attributes:
        flop: Of the FLOP in a forward pass.
        weights: Of the parameters.
        features: Of what the first convolution gives for an image.
    """

    flop: float
    weights: float
    features: float


def _digits_network() -> Network:
    layers = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 16, 10)),
    )
    return Network(layers, learning_rate=0.2)


def _digits_data() -> Data:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)[:, None]  # (B, 1, 8, 8)
    labels = torch.tensor(digits.target[order])
    first, rest = slice(None, _DIGITS_TO_TRAIN_ON), slice(_DIGITS_TO_TRAIN_ON, None)
    return TensorDataset(images[first], labels[first]), TensorDataset(images[rest], labels[rest])


def _cifar10_network() -> Network:
    layers = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 16, 10)),
    )
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):  # without normalisation, torch's own start takes long to leave
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return Network(layers, learning_rate=0.05)


class PartOfCifar10(CIFAR10):
    """5,000 and 1,000 images in the official layout, which have checksums of their own."""

    train_list = (("data_batch_1", "4c00f854852daf40508beaef4f12341b"),)
    test_list = (("test_batch", "80bc75b55f78c9c6fa60078822178137"),)
    meta: ClassVar = {**CIFAR10.meta, "md5": "e67e6d79a6ae9af034705d8ff385e26a"}


def _cifar10_data() -> Data:
    folder = os.environ.get("LIGHTNING_SFL_DATA")
    if folder is None:
        raise SystemExit("LIGHTNING_SFL_DATA is not set: let it name the folder with cifar10/, or give --tasks digits.")
    parts = [PartOfCifar10(Path(folder) / "cifar10", train=train) for train in (True, False)]
    pixels = [torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in parts]  # (B, 3, 32, 32)
    images = [(each.float() / 255 - 0.5) / 0.25 for each in pixels]
    labels = [torch.tensor(part.targets) for part in parts]
    return TensorDataset(images[0], labels[0]), TensorDataset(images[1], labels[1])


TASKS: Mapping[str, Task] = {
    "digits": Task(
        network=_digits_network,
        data=_digits_data,
        cuts=("model.1", "model.2", "model.4", "model.6", "model.8"),
        image_shape=(1, 8, 8),
        target=0.93,
        rounds=20,
    ),
    "cifar10": Task(
        network=_cifar10_network,
        data=_cifar10_data,
        cuts=("model.1", "model.2", "model.5", "model.7", "model.10"),
        image_shape=(3, 32, 32),
        target=0.35,
        rounds=40,
    ),
}
