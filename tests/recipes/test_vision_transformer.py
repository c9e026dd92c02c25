"""SFLAM's recipes: a vision transformer that is cut behind its patch embedding, with quantised smashed data."""

import csv
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.models import ViT_B_32_Weights

import recipes
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.cut.find import search
from lightning_sfl.link.codecs import StochasticUniform
from lightning_sfl.link.message import MessageKind
from recipes.cnn.cifar10 import Cifar10
from recipes.cnn.digits import Digits
from recipes.cnn.vision_transformer import VisionTransformerClassifier

ROOT = Path(recipes.__file__).parent
CUT = "model.conv_proj"


def small(**changes: object) -> VisionTransformerClassifier:
    """The model of ``sflam_digits.yaml``."""
    values = {"channels": 1, "image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "heads": 4, "mlp_width": 128}
    return VisionTransformerClassifier(**{**values, "pretrained": False, "learning_rate": 0.02, **changes})


def test_the_client_embeds_patches_and_the_server_has_all_the_rest():
    """An image of 32 x 32 in patches of 8 x 8 is 4 x 4 tokens of 64 numbers; the rest comes later."""
    module, batch = small(), (torch.rand(2, 1, 32, 32), torch.tensor([0, 1]))
    split = search(module, batch).split(CUT)

    assert set(split.client_parameters) == {f"{CUT}.weight", f"{CUT}.bias"}
    assert {"model.class_token", "model.encoder.pos_embedding"} < set(split.server_parameters)
    assert module.model.conv_proj(batch[0]).shape == (2, 64, 4, 4)


def test_the_papers_model_has_its_sizes():
    """3 · 32 · 32 · 768 weights and 768 offsets; 49 tokens of 768 numbers are 147 KiB in float32."""
    with torch.device("meta"):
        module = VisionTransformerClassifier(pretrained=False)
    tokens = module.model.conv_proj(torch.empty(1, 3, 224, 224, device="meta"))

    assert sum(parameter.numel() for parameter in module.model.conv_proj.parameters()) == 2_360_064
    assert tokens.numel() * 4 == 147 * 1024
    assert len(module.model.encoder.layers) == 12


def test_trained_weights_are_taken_over_but_for_the_last_layer(monkeypatch):
    trained = small(channels=3, num_classes=1000)
    weights = {name: torch.full_like(own, 0.5) for name, own in trained.model.state_dict().items()}
    monkeypatch.setattr(ViT_B_32_Weights, "get_state_dict", lambda *_, **__: weights)
    module = small(channels=3, pretrained=True)

    for name, own in module.model.state_dict().items():
        assert name.startswith("heads.") or bool((own == 0.5).all())
    assert module.model.heads.head.weight.shape == (10, 64)
    with pytest.raises(RuntimeError, match="size mismatch for conv_proj"):
        small(channels=3, pretrained=True, patch_size=4)


def test_too_few_training_images_are_refused(photographs):
    with pytest.raises(ValueError, match="training_samples=25000 is not accepted: there are 12 images"):
        Cifar10(root=str(photographs), download=False).setup("fit")


def test_photographs_are_augmented_for_training_alone(photographs):
    data = Cifar10(root=str(photographs), batch_size=4, image_size=64, training_samples=10, download=False)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))

    assert len(data.training) == 10
    assert images.shape == (4, 3, 64, 64)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert not torch.equal(data.training[0][0], data.training[0][0])
    assert torch.equal(data.validation[0][0], data.validation[0][0])


def test_photographs_for_validation_are_normalised(photographs):
    """White is 1; less the mean 0.485 and by the standard deviation 0.229 that is 2.249 in the red channel."""
    data = Cifar10(root=str(photographs), image_size=64, training_samples=10, download=False)
    data.setup("fit")

    assert torch.allclose(data.validation[0][0][0, 32:], torch.tensor(2.2489), atol=1e-4)


def test_a_folder_without_photographs_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"partial=True: there is none of data_batch_1, .* in '{tmp_path}"):
        Cifar10(root=str(tmp_path), download=False, partial=True).prepare_data()


@pytest.mark.data
def test_the_real_photographs_are_read_from_a_folder(data_folder):
    """A part of CIFAR-10 in the official layout, whose MD5 sums torchvision would refuse."""
    root = str(data_folder / "cifar10")
    data = Cifar10(root=root, batch_size=8, image_size=32, training_samples=5000, download=False, partial=True)
    data.prepare_data()
    data.setup("fit")

    assert len(data.training) == 5000
    assert len(data.validation) == 1000
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 32, 32)
    assert images.std() > 0.3  # photographs, not blank


class White(Dataset):
    """In the place of torchvision's data set: 12 images, black in the upper quarter and white below."""

    def __init__(self, root: str, train: bool, transform=None, download: bool = False) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, place: int):
        pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
        pixels[:8] = 0
        return self.transform(Image.fromarray(pixels)), place % 10


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    """A folder for which torchvision finds 12 images, black in the upper quarter and white below."""
    monkeypatch.setattr("recipes.cnn.cifar10.CIFAR10", White)
    return tmp_path


def trained_on_digits(bits: int | None, epochs: int) -> tuple[float, float]:
    """Accuracy on held-out digits after training as ``sflam_digits.yaml`` does, and bits of the smashed data in all."""
    pl.seed_everything(0, verbose=False)
    strategy = SplitFederatedStrategy(
        cut=CUT,
        algorithm="splitfed_v1",
        num_clients=5,
        partition="dirichlet:0.5",
        aggregate_every=5,
        codecs={"smashed": [] if bits is None else [StochasticUniform(bits=bits)]},
    )
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = small()
    trainer.fit(module, datamodule=Digits())
    smashed_bit = strategy.link.meter.total(MessageKind.SMASHED).payload_bit
    return float(trainer.callback_metrics["val_acc"]), smashed_bit


@pytest.mark.slow
def test_eight_bits_train_as_well_as_none_fewer_and_two_bits_do_not():
    """Six epochs. One digit in ten is right by chance.

    Each of 5 clients and 114 steps sends B images of 16 · 64 = 1,024 numbers: in 8 bits a quarter of what 32 take, and
    the least and the largest, 64 bits, per message.
    """
    plain, plain_bit = trained_on_digits(None, epochs=6)
    eight, eight_bit = trained_on_digits(8, epochs=6)
    two, two_bit = trained_on_digits(2, epochs=6)

    assert plain > 0.75
    assert abs(eight - plain) < 0.08
    assert two < 0.4
    assert eight_bit == plain_bit // 4 + 570 * 64
    assert two_bit == plain_bit // 16 + 570 * 64


@pytest.mark.slow
def test_the_small_recipe_trains(tmp_path):
    """The recipe itself, cut down to 6 epochs; a fresh process, as a user would run it."""
    command = [Path(sys.executable).parent / "lightning-sfl", "fit", "--config", str(ROOT / "cnn/sflam_digits.yaml")]
    subprocess.run([*command, "--trainer.max_epochs=6"], check=True, capture_output=True, cwd=tmp_path)
    (metrics,) = tmp_path.rglob("metrics.csv")
    with metrics.open(encoding="utf-8", newline="") as file:
        found = [float(row["val_acc"]) for row in csv.DictReader(file) if row["val_acc"]]
    assert found[-1] > 0.75
