"""The layer profiles of VGG-16, ResNet-18 and ViT-B/32, as simulations of split learning use them, from the models.

Forward FLOPs count a multiply-accumulate as two. The figures were computed by hand for 32x32 images (ViT: 224x224), and
are rounded as printed.
"""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18, vgg16, vit_b_32

from lightning_sfl.cut.find import search
from lightning_sfl.world.model.measure import profile_cuts

KIB = 1024 * 8  # bits


class Net(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.model(batch[0]), batch[1])


def vgg() -> nn.Module:
    """With a classifier of 512 features, as for CIFAR."""
    model = vgg16(num_classes=10)
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(
        nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 10)
    )
    return model


def resnet() -> nn.Module:
    """With a stem of 3x3, as for CIFAR."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def rows(model: nn.Module, size: int, cuts: list[str]) -> list[tuple[float, int, float]]:
    """MFLOP forward, parameters, KiB that cross, up to every one of the cuts; the last row is the whole model's."""
    module = Net(model)
    batch = (torch.rand(2, 3, size, size, device="cpu"), torch.tensor([0, 1]))
    found = search(module, batch)
    profile = profile_cuts(module, batch, {f"model.{name}": found.split(f"model.{name}") for name in cuts})
    return [
        (float(flop), int(parameters), float(bit))
        for flop, parameters, bit in zip(
            [*profile.client_forward_flop[:, 1] / 1e6, profile.whole.client_forward_flop[0, 1] / 1e6],
            [*profile.client_parameters, profile.whole.client_parameters[0]],
            [*profile.smashed_bit[:, 1] / KIB, 0.0],
            strict=True,
        )
    ]


def test_vgg16():
    cuts = ["features.1", "features.4", "features.6", "features.9", "features.16", "features.23", "features"]
    with torch.device("meta"):
        found = rows(vgg(), 32, cuts)
    assert [round(mflop, 1 if mflop < 10 else None) for mflop, _, _ in found[:-1]] == [3.5, 79, 117, 192, 381, 570, 626]
    assert [parameters for _, parameters, _ in found] == [
        1_792, 38_720, 112_576, 260_160, 1_735_488, 7_635_264, 14_714_688, 15_245_130
    ]  # fmt: skip
    assert [kib for _, _, kib in found[:-1]] == [256, 64, 128, 32, 16, 8, 2]
    assert found[-1][0] / 2 == pytest.approx(313.7, abs=0.05)


def test_resnet18():
    with torch.device("meta"):
        found = rows(resnet(), 32, ["relu", "layer1", "layer2", "layer3", "layer4"])
    assert [round(mflop, 1 if mflop < 10 else None) for mflop, _, _ in found[:-1]] == [3.5, 306, 574, 842, 1111]
    assert [parameters for _, parameters, _ in found] == [1_856, 149_824, 675_392, 2_775_104, 11_168_832, 11_173_962]
    assert [kib for _, _, kib in found[:-1]] == [256, 256, 128, 64, 32]
    assert found[-1][0] / 2 == pytest.approx(555.4, abs=0.05)


@pytest.mark.slow
def test_vit_b_32():
    """Every block costs and holds as much as the next, and sends as much: 50 tokens of 768 in 32 bits.

    A block: 50 · 12 · 768² MAC in its matrices and 2 · 50² · 768 in its attention, 715.4 MFLOP."""
    with torch.device("meta"):
        found = rows(vit_b_32(), 224, ["conv_proj", *(f"encoder.layers.encoder_layer_{block}" for block in range(11))])
    assert [round(found[0][0]), found[0][1], found[0][2]] == [231, 2_360_064, 147]
    blocks = np.diff(np.array(found[1:-1]), axis=0)
    assert np.round(blocks[:, 0]).tolist() == [715] * 10
    assert blocks[:, 1].tolist() == [7_087_872] * 10
    assert [kib for _, _, kib in found[1:-1]] == [150] * 11
    assert found[-1][0] / 2e3 == pytest.approx(4.409, abs=0.001)
