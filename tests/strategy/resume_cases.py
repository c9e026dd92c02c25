"""Runs that are stopped and gone on with, and what two runs are compared by."""

import contextlib
import copy
import dataclasses
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.random_state import RandomState

PARTS = [[*range(11)], [*range(11, 19)], [19, 20, 21]]
"""At 3 samples a batch: 3, 3, 3, 2 | 3, 3, 2 | 3. An epoch is 3 to 8 steps, in which the last client starts over."""


class Augmented(Dataset):
    """Samples that draw from torch, NumPy and Python."""

    def __init__(self) -> None:
        self.images = torch.randn(22, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        noise = torch.randn(6) + torch.from_numpy(np.random.standard_normal(6)).float() + random.random()
        return self.images[index] + 0.1 * noise, torch.tensor(index % 3)


class Net(pl.LightningModule):
    """Batch normalisation and dropout on both sides of any cut, a step that draws from NumPy and Python."""

    def __init__(self, case: "Case", width: int = 8) -> None:
        super().__init__()
        self.case = case
        self.net = nn.Sequential(
            *(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2)),
            *(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2)),
            nn.Linear(6, 3),
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.net(x * (1 + 0.1 * np.random.random() + 0.1 * random.random())), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", cross_entropy(self.net(x + 0.1 * torch.randn_like(x)), y))

    def configure_optimizers(self):
        if self.case.optimizer == "sgd":
            optimizer: Any = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if self.case.schedule is None:
            return optimizer
        if self.case.schedule == "horizon":  # makes the loader before a checkpoint is restored
            steps = self.trainer.estimated_stepping_batches
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(steps))
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]
        if self.case.schedule.startswith("plateau"):  # "plateau INTERVAL FREQUENCY MONITOR"
            _, interval, frequency, monitor = self.case.schedule.split()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0, threshold=0.05)
            config = {"interval": interval, "frequency": int(frequency), "monitor": monitor}
            return [optimizer], [{"scheduler": plateau, **config}]
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7)
        return [optimizer], [{"scheduler": schedule, "interval": self.case.schedule}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One run's configuration."""

    algorithm: str = "splitfed_shared"
    cut: str | tuple[str, str] = "net.3"
    server_batching: str = "per_client"
    aggregate_every: int = 1
    clients_per_round: int = 3
    client_optimizer_state: str = "average"
    weighting: str = "samples"
    seed: int = 0
    workers: int = 0
    persistent: bool = False
    shuffle: bool = True
    own_generator: bool = False
    drop_last: bool = False
    optimizer: str = "adamw"
    schedule: str | None = "step"
    validation: dict[str, Any] | None = None
    limit: int | float | None = None
    sanity: int = 0
    steps: int = 10
    epochs: int | None = None
    codecs: Any = ()

    @property
    def forward_only(self) -> bool:
        """Whether clients are alike at all times, their optimizer state included."""
        return self.algorithm in ("ho_sfl", "zo_sfl", "hosl")

    def strategy(self, **options: Any) -> SplitFederatedStrategy:
        """The case's strategy; options take the place of its own."""
        settings: dict[str, Any] = {
            "cut": None if self.algorithm == "fedavg" else self.cut,
            "algorithm": self.algorithm,
            "num_clients": 3,
            "partition": PARTS,
            "aggregate_every": self.aggregate_every,
            "clients_per_round": self.clients_per_round,
            "client_optimizer_state": "average" if self.forward_only else self.client_optimizer_state,
            "weighting": self.weighting,
            "server_batching": self.server_batching,
            "seed": self.seed,
            "codecs": self.codecs,
        }
        return SplitFederatedStrategy(**{**settings, **options})

    def module(self, seed: int = 0) -> Net:
        torch.manual_seed(seed)
        return Net(self)

    def loader(self) -> DataLoader:
        return DataLoader(
            Augmented(),
            batch_size=3,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            num_workers=self.workers,
            persistent_workers=self.persistent,
            generator=torch.Generator().manual_seed(5) if self.own_generator else None,
        )

    def trainer(self, strategy: Any, **options: Any) -> pl.Trainer:
        settings: dict[str, Any] = {
            "max_steps": self.steps if self.epochs is None else -1,
            "max_epochs": -1 if self.epochs is None else self.epochs,
            "limit_train_batches": self.limit,
            "num_sanity_val_steps": self.sanity,
            **(self.validation or {}),
        }
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        return pl.Trainer(strategy=strategy, **{**quiet, **settings, **options})

    def train(
        self,
        folder: Path | None = None,
        *,
        go_on: Path | None = None,
        stop: int | None = None,
        callbacks: tuple[pl.Callback, ...] = (),
        **options: Any,
    ) -> "Outcome":
        """Train from the start, or go on from a file, where nothing is as it was but the configuration.

        Args:
            folder: Gets a checkpoint of every step.
            go_on: The checkpoint.
            stop: Steps after which an error ends the run.
            callbacks: More callbacks.
            **options: Of the strategy and of the trainer.
        """
        pl.seed_everything(1 if go_on is None else 99, verbose=False)
        module, loader, outcome = self.module(0 if go_on is None else 98), self.loader(), Outcome()
        strategy = self.strategy(**({"checkpoint_io": options.pop("io")} if "io" in options else {}))
        if folder is not None:
            every = pl.callbacks.ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
            callbacks = (every, *callbacks)
        callbacks = (Watch(outcome, loader, stop), *callbacks)
        saves = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks)
        trainer = self.trainer(strategy, callbacks=list(callbacks), enable_checkpointing=saves, **options)
        held_out = None if self.validation is None else DataLoader(Augmented(), batch_size=11)
        with contextlib.suppress(Stopped):
            trainer.fit(module, loader, held_out, ckpt_path=go_on, weights_only=True)
        outcome.end["weights"] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return outcome


class Stopped(Exception):
    """Ends a run."""


@dataclasses.dataclass
class Outcome:
    """What a run did in every step, by its number, and how it ended."""

    steps: dict[int, Any] = dataclasses.field(default_factory=dict)
    validations: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)
    end: dict[str, Any] = dataclasses.field(default_factory=dict)


class Watch(pl.Callback):
    """Notes which samples every client's steps held, and what the samples were; at the end, everything."""

    def __init__(self, outcome: Outcome, loader: DataLoader, stop: int | None) -> None:
        self.outcome = outcome
        self.generator = loader.generator
        self.stop = stop

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.stop:
            raise Stopped
        seen = {client: copy.deepcopy(own) for client, own in batch.batches.items()}
        place = (batch.step, batch.round, batch_idx, trainer.current_epoch)
        self.outcome.steps[trainer.global_step + 1] = [place, dict(batch.indices), seen]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.outcome.steps[trainer.global_step].append(outputs["loss"])

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.outcome.validations[trainer.global_step] = trainer.callback_metrics["val_loss"]

    def on_train_end(self, trainer, module):
        strategy = trainer.strategy
        self.outcome.end = copy.deepcopy(
            {
                "random": RandomState.capture().to_state(),
                "generator": None if self.generator is None else self.generator.get_state(),
                "participants": strategy._federation.state_dict(),
                "rounds": strategy.rounds,
                "optimizer": strategy.optimizer_state(trainer.optimizers[0]),
                "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
                "data": strategy._loader.state_dict(),
                "place": (trainer.global_step, trainer.current_epoch),
            }
        )


class Moments(pl.Callback):
    """Saves a checkpoint at the end of every epoch and of every validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer, when):
        trainer.save_checkpoint(self.folder / f"{when}={trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch")

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.save(trainer, "validation")


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested values are not equal bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, pair in pairs for found in differences(*pair, f"{where}[{place}]")]
    return [] if type(one) is type(other) and one == other else [where]


def apart(whole: Outcome, resumed: Outcome, *, validated: bool = False) -> list[str]:
    """What tells a resumed run from the whole one.

    Args:
        whole: The whole run.
        resumed: The resumed run.
        validated: Whether the checkpoint was saved after the validation that follows its step.
    """
    stopped = min(resumed.steps) - 1
    tails = [
        {step: seen for step, seen in whole.steps.items() if step > stopped},
        {step: seen for step, seen in whole.validations.items() if step >= stopped + validated},
    ]
    return differences([*tails, whole.end], [resumed.steps, resumed.validations, resumed.end])
