"""SFLAM's recipes: a vision transformer that is cut behind its patch embedding, with quantised smashed data."""

import csv
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10
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
    """An image of 32 x 32 in patches of 8 x 8 is 4 x 4 tokens of 64 numbers; class token and positions are added later."""
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


def trained_on_digits(bits: int | None, epochs: int, limit: float = 1.0) -> tuple[float, float]:
    """Accuracy on held-out digits after training as ``sflam_digits.yaml`` does, and payload bits of the smashed data."""
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
        limit_train_batches=limit,
        limit_val_batches=0 if limit < 1 else 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = small()
    trainer.fit(module, datamodule=Digits())
    accuracy = trainer.callback_metrics.get("val_acc", torch.tensor(torch.nan))
    smashed = strategy.link.meter.total(MessageKind.SMASHED)
    return float(accuracy), smashed.payload_bit / smashed.messages
