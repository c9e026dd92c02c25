"""Small models of the kinds the laws must hold for, as LightningModules, with data that suit them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset


class Classifier(pl.LightningModule):
    """Any network on (input, label) pairs."""

    def __init__(
        self, model: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer], schedule: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.schedule = schedule

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", cross_entropy(self.model(x), y))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.model(batch[0])

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        if not self.schedule:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)]


class HuggingFace(Classifier):
    """A transformers model on dictionaries, labels included."""

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss)

    test_step = validation_step


class Block(nn.Module):
    """A residual block with batch normalisation."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.short = (
            nn.Sequential() if stride == 1 and inside == outside else nn.Conv2d(inside, outside, 1, stride=stride)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + self.short(x))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        Block(6, 6, 1),
        Block(6, 8, 2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)),
        nn.Linear(8, 4),
    )


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(16, 4),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


class Two(nn.Module):
    """Gives two tensors of different shapes and takes one or both, with something between them that is no tensor."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.LazyLinear(wide), nn.LazyLinear(narrow)
        self.drop = nn.Dropout(0.1)

    def forward(self, given):
        one, other = (given["wide"], given["narrow"][0]) if isinstance(given, dict) else (given, given)
        return {"wide": self.drop(self.wide(one + other.mean(-1, True))), "kind": "two", "narrow": [self.narrow(other)]}


class Twins(nn.Module):
    """Two tensors run side by side from one part to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Two(8, 5), Two(6, 7), Two(4, 3)
        self(torch.zeros(1, 3, 8, 8))

    def forward(self, images):
        last = self.third(self.second(self.first(images.flatten(1))))
        return last["wide"] * last["narrow"][0].sum(-1, True)


def gpt2(*, tied: bool = False) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        vocab_size=32,
        n_positions=16,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=tied,
    )
    return GPT2LMHeadModel(config)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=16,
        intermediate_size=24,
        vocab_size=32,
        max_position_embeddings=16,
        attention_dropout=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=16,
        intermediate_size=24,
        vocab_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


class ImageData(Dataset):
    """Random images and labels, the same for the same size."""

    def __init__(self, size: int) -> None:
        draw = torch.Generator().manual_seed(size)
        self.images = torch.rand(size, 3, 8, 8, generator=draw)
        self.targets = torch.randint(0, 4, (size,), generator=draw)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


class TokenData(Dataset):
    """Random token sequences of several lengths; labels are the tokens themselves, or one class."""

    def __init__(self, size: int, *, causal: bool) -> None:
        draw = torch.Generator().manual_seed(size)
        lengths = torch.randint(3, 9, (size,), generator=draw)
        self.sequences = [torch.randint(1, 32, (int(length),), generator=draw) for length in lengths]
        self.targets = torch.randint(0, 3, (size,), generator=draw)
        self.causal = causal

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index):
        return self.sequences[index], self.targets[index]

    def collate(self, records) -> dict[str, Tensor]:
        sequences = [sequence for sequence, _ in records]
        ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
        labels = ids.masked_fill(mask == 0, -100) if self.causal else torch.stack([target for _, target in records])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of model: how to make it, its data, some of its cuts, and what its server may read."""

    name: str
    make: Callable[[], nn.Module]
    cuts: tuple[str, ...]
    wrapper: type[Classifier] = Classifier
    server_inputs: tuple[str, ...] = ()
    causal: bool = False

    def module(self, optimizer: Callable[[Any], torch.optim.Optimizer], seed: int = 0) -> Classifier:
        torch.manual_seed(seed)
        return self.wrapper(self.make(), optimizer)

    def dataset(self, size: int) -> Dataset:
        return ImageData(size) if self.wrapper is Classifier else TokenData(size, causal=self.causal)

    def loader(self, size: int, batch_size: int, **options: Any) -> DataLoader:
        dataset = self.dataset(size)
        collate = dataset.collate if isinstance(dataset, TokenData) else None
        return DataLoader(dataset, batch_size=batch_size, collate_fn=collate, **options)

    def batch(self, size: int = 4) -> Any:
        return next(iter(self.loader(size, size)))


RESNET = Kind("resnet", resnet, ("model.0", "model.1", "model.2", "model.3"))
VGG = Kind("vgg", vgg, ("model.0", "model.1", "model.2", "model.4", "model.9", "model.10"))
MLP = Kind("mlp", mlp, ("model.1", "model.2", "model.4"))
GPT2 = Kind(
    "gpt2",
    gpt2,
    ("model.transformer.drop", "model.transformer.h.0", "model.transformer.h.1", "model.transformer.ln_f"),
    HuggingFace,
    ("labels",),
    causal=True,
)
LLAMA = Kind(
    "llama",
    llama,
    ("model.model.embed_tokens", "model.model.layers.0", "model.model.layers.1", "model.model.norm"),
    HuggingFace,
    ("labels",),
    causal=True,
)
BERT = Kind(
    "bert",
    bert,
    ("model.bert.embeddings", "model.bert.encoder.layer.0", "model.bert.encoder", "model.bert"),
    HuggingFace,
)
TWINS = Kind("twins", Twins, ("model.first", "model.second"))
KINDS = (RESNET, VGG, MLP, GPT2, LLAMA, BERT, TWINS)
KINDS_WITH_SLOW = [pytest.param(kind, marks=pytest.mark.slow) if kind in (LLAMA, BERT) else kind for kind in KINDS]
"""Those that take longest are tried in the slow tests alone, where others of their family are tried in any case."""


TIED_GPT2 = dataclasses.replace(GPT2, name="tied gpt2", make=lambda: gpt2(tied=True), server_inputs=())
U_SHAPES = (
    (TIED_GPT2, ("model.transformer.h.0", "model.transformer.ln_f")),
    (TIED_GPT2, ("model.transformer.drop", "model.transformer")),
    (RESNET, ("model.0", "model.2")),
    (VGG, ("model.1", "model.9")),
    (MLP, ("model.1", "model.3")),
    (dataclasses.replace(LLAMA, server_inputs=()), ("model.model.layers.0", "model.model.norm")),
    (BERT, ("model.bert.embeddings", "model.bert.encoder")),
    (BERT, ("model.bert.encoder.layer.0", "model.bert")),
    (TWINS, ("model.first", "model.second")),
)
"""Kinds with two cuts, where labels and tied weights stay with the client."""


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def quiet_trainer(**options: Any) -> pl.Trainer:
    """A Trainer that writes nothing and shows nothing."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **options,
    }
    return pl.Trainer(**settings)


def fit(
    module: pl.LightningModule, loader: Any, strategy: Any, *, seed: int = 1, val: Any = None, **options: Any
) -> pl.Trainer:
    """Train a module from one global seed."""
    pl.seed_everything(seed, verbose=False)
    trainer = quiet_trainer(strategy=strategy, **options)
    trainer.fit(module, loader, val)
    return trainer


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
