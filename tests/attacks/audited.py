"""A run that has been trained, and its audit."""

import dataclasses
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from attacks.attacker import Background, Records
from attacks.audit.run import audit
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import batch_sizes_of, known_labels_of
from attacks.audit.victim import evaluating_at
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.program import Program
from attacks.reconstruction import Progress, unwatched
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.leakage import CutLeakage, Leakage

BATCH, CLIENTS, STEPS = 8, 3, 4
QUICK = AuditSettings(attacks=(WhiteBox(iterations=150, candidates=(FAITHFUL,)),), records=16)
ONE_ITERATION = dataclasses.replace(QUICK, attacks=(WhiteBox(iterations=1, candidates=(FAITHFUL,)),))


class TinyNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(72, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.head(self.body(self.stem(images))), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val", cross_entropy(self.head(self.body(self.stem(images))), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(found.target)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model after some steps, its log, and the records: those of clients first, then those of nobody."""

    model: pl.LightningModule
    log: MessageLog
    images: Tensor
    labels: Tensor
    held: int = 120
    fixed_norms: bool = False
    last: str | None = None

    def program(self, cut: str | None) -> Program:
        template = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
        split = None if cut is None else search(self.model, template, last=self.last).cut(cut).split
        return Program(
            self.model, split, template, fixed_norms=self.fixed_norms, evaluating=evaluating_at(self.log, cut)
        )

    def records(self, indices: tuple[int, ...]) -> Records:
        return Records(images_BCHW=self.images[list(indices)], labels_B=self.labels[list(indices)])

    def background(self, **changes: Any) -> Background:
        auxiliary = Records(
            images_BCHW=self.images[self.held : self.held + 64], labels_B=self.labels[self.held : self.held + 64]
        )
        values: dict[str, Any] = {
            "program": self.program,
            "space": ImageSpace(shape_CHW=(1, 8, 8)),
            "auxiliary": auxiliary,
            "server_weights": self.model.state_dict(),
            "optimizer": LocalOptimizer.of(torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)),
            "batch_sizes": batch_sizes_of(self.log),
            "known_labels": known_labels_of(self.log, self.records),
        }
        return Background(**{**values, **changes})

    def audit(
        self,
        settings: AuditSettings = QUICK,
        log: MessageLog | None = None,
        progress: Progress = unwatched,
        **changes: Any,
    ) -> list[CutLeakage]:
        return audit(log or self.log, self.background(**changes), self.records, settings, progress=progress)

    def cell(self, settings: AuditSettings = QUICK, log: MessageLog | None = None, **changes: Any) -> Leakage:
        ((cell,),) = [found.cells for found in self.audit(settings, log, **changes)]
        return cell


def train(
    *callbacks: pl.Callback,
    log: MessageLog | None = None,
    steps: int = STEPS,
    batch: int = BATCH,
    net=None,
    **settings: Any,
) -> Trained:
    images, labels = digits()
    pl.seed_everything(0, verbose=False)
    model, log = (net or TinyNet)(), log
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        strategy=SplitFederatedStrategy(
            **{"cut": "stem", "num_clients": CLIENTS, "batch_size": batch, "message_log": log, **settings}
        ),
    )
    held = TensorDataset(images[:120], labels[:120])
    others = TensorDataset(images[120:184], labels[120:184])
    trainer.fit(model, DataLoader(held, batch_size=BATCH, shuffle=True), DataLoader(others, batch_size=32))
    cut = settings.get("cut")
    return Trained(model, log or MessageLog(), images, labels, last=cut[1] if isinstance(cut, tuple) else None)


def without_times(found: list[CutLeakage]) -> list[CutLeakage]:
    """What a second audit of the same log gives again."""
    return [
        dataclasses.replace(
            at_cut, wall_s=0.0, cells=tuple(dataclasses.replace(cell, cpu_s=0.0) for cell in at_cut.cells)
        )
        for at_cut in found
    ]
