"""The audit as a callback: it attacks a run while it trains, and leaves the run as it was."""

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import override

from attacks.attack import Attack
from attacks.attacker import Background, Records
from attacks.audit.run import audit, cuts_of
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import auxiliary_records, batch_sizes_of, known_labels_of, records_of
from attacks.audit.victim import evaluating_at
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.program import Program
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.cut.batch import first_records, named_tensors, replace_tensors
from lightning_sfl.cut.find import copied_module, search
from lightning_sfl.link.log import MessageLog
from lightning_sfl.random_state import RandomState
from lightning_sfl.report.html_file import to_html
from lightning_sfl.report.json_file import to_json
from lightning_sfl.report.leakage import CutLeakage
from lightning_sfl.report.report import Report, leakage_row
from lightning_sfl.report.wandb_run import log_to_wandb


class PrivacyAudit(pl.Callback):
    """Attacks what crossed between clients and server, every few rounds and at the end.

    What was found stands in :attr:`leakage`, by round, and is logged as ``leakage/CUT/psnr_db`` of the strongest attack
    on images. The trained model, its metrics and the random state stay bit for bit as they were.

    Args:
        attacks: See :class:`attacks.audit.settings.AuditSettings`.
        cuts: The cuts to attack, of those that the run uses; None: all.
        every_n_rounds: Attack each time that so many rounds have ended, and once more at the end; None: only then.
        threat: Who attacks.
        records: How many records to attack.
        input_low: Smallest value of a pixel as the model is given it.
        input_high: Largest.
        directory: Where to write ``round_000012/report.html`` and ``report.json``; None writes nothing.
        keep_rounds: How many rounds of messages to keep in memory where the strategy has no message log of its own.
            Attacks on several messages of a record (``linked_views``) need more than an epoch of them; all others
            read the newest.

    Attributes:
        leakage: What was found, by the number of rounds that had ended.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        attacks: Sequence[str | Attack] | None = None,
        cuts: Sequence[str] | None = None,
        every_n_rounds: int | None = None,
        *,
        threat: str = "both_servers",
        records: int = 32,
        input_low: Sequence[float] = (0.0,),
        input_high: Sequence[float] = (1.0,),
        directory: str | Path | None = None,
        keep_rounds: int = 1,
    ) -> None:
        super().__init__()
        if keep_rounds < 1:
            raise ValueError(f"keep_rounds={keep_rounds} is not accepted: give an integer of at least 1.")
        if every_n_rounds is not None and every_n_rounds < 1:
            raise ValueError(
                f"every_n_rounds={every_n_rounds} is not accepted: give an integer of at least 1, or None."
            )
        self.settings = AuditSettings(
            attacks=None if attacks is None else tuple(attacks),
            threat=threat,
            records=records,
            input_low=tuple(input_low),
            input_high=tuple(input_high),
        )
        self.cuts = None if cuts is None else tuple(cuts)
        self.every_n_rounds = every_n_rounds
        self.keep_rounds = keep_rounds
        self.directory = None if directory is None else Path(directory)
        self.leakage: dict[int, list[CutLeakage]] = {}
        self._rounds = 0
        self._template: Any = None
        self._weights: dict[str, torch.Tensor] | None = None
        self._weights_step: int | None = None
        self._own_log: MessageLog | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the run keep its messages: in the log that the strategy has, else the newest round's in memory.

        Raises:
            MisconfigurationException: The strategy keeps no message log.
        """
        if stage != "fit":
            return
        strategy = _strategy_of(trainer)
        if strategy.message_log is None or strategy.message_log is self._own_log:
            self._own_log = MessageLog(keep_rounds=self.keep_rounds)  # a log is of one fit
            strategy.message_log = strategy.link.log = self._own_log
        self.leakage, self._rounds, self._template = {}, 0, None
        self._weights, self._weights_step = None, None

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where clients are sent no weights, keep those that the step is made with."""
        if _strategy_of(trainer).has_fixed_norms:
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.state_dict().items()}
            self._weights_step = batch.step

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Attack when enough rounds have ended."""
        if self._template is None:
            self._template = _blank(next(iter(batch.batches.values())))
        if batch.closes_round:
            self._rounds = batch.round + 1
            if self.every_n_rounds is not None and self._rounds % self.every_n_rounds == 0:
                self._attack(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attack the last round, if that was not done."""
        if self._rounds not in self.leakage and self._template is not None:
            self._attack(trainer, pl_module)

    def _attack(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        strategy = _strategy_of(trainer)
        log = strategy.message_log
        assert log is not None
        with _traceless():
            held = cuts_of(log)
            cuts = [cut for cut in held if self.cuts is None or cut in self.cuts]
            if not cuts:
                return
            # Attacks on one cut may use what crossed at another.
            programs = {cut: self._program(pl_module, strategy, cut) for cut in held}
            name, (_, channels, height, width), _ = next(iter(programs.values())).image_input(1)
            loader: Any = trainer.train_dataloader

            def records(indices: tuple[int, ...]) -> Records:
                return records_of(loader.collate(indices), name)

            background = Background(
                program=programs.__getitem__,
                space=ImageSpace(
                    shape_CHW=(channels, height, width), low=self.settings.input_low, high=self.settings.input_high
                ),
                auxiliary=_auxiliary(trainer, name),
                server_weights={key: tensor.detach().cpu() for key, tensor in pl_module.state_dict().items()},
                client_weights=self._weights,
                client_weights_step=self._weights_step,
                probing=strategy.algorithm if isinstance(strategy.algorithm, ForwardOnly) else None,
                optimizer=LocalOptimizer.of(
                    trainer.optimizers[0],
                    steps=strategy.aggregate_every,
                    keeps_state=strategy.client_optimizer_state == "keep",
                ),
                batch_sizes=batch_sizes_of(log),
                from_checkpoint=trainer.ckpt_path is not None,
                known_labels=known_labels_of(log, records),
            )

            found = audit(log, background, records, self.settings, cuts=cuts)
        self.leakage[self._rounds] = found
        self._log(trainer, log, found)

    def _program(self, pl_module: pl.LightningModule, strategy: "LoggedStrategy", cut: str | None) -> Program:
        module = copied_module(pl_module).cpu()
        split = None
        if cut is not None:
            last = strategy.cut[1] if isinstance(strategy.cut, tuple) else None
            inputs, step = strategy.server_inputs, strategy.run_step
            searched = search(module, self._template, server_inputs=inputs, step=step, last=last)
            split = searched.cut(cut).split
        log = strategy.message_log
        assert log is not None
        return Program(
            module,
            split,
            self._template,
            step=strategy.run_step,
            fixed_norms=strategy.has_fixed_norms,
            evaluating=evaluating_at(log, cut),
        )

    def _log(self, trainer: pl.Trainer, log: MessageLog, found: Sequence[CutLeakage]) -> None:
        values = {
            f"leakage/{at_cut.cut}/psnr_db": cell.value.mean
            for at_cut in found
            if (cell := at_cut.strongest) is not None
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        if self.directory is None and not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            return
        report = self._report(trainer, log, found)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_to_wandb(report, logger.experiment)
        if self.directory is not None:
            folder = self.directory / f"round_{self._rounds:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.json").write_text(to_json(report), encoding="utf-8")
            (folder / "report.html").write_text(to_html(report), encoding="utf-8")

    def _report(self, trainer: pl.Trainer, log: MessageLog, found: Sequence[CutLeakage]) -> Report:
        packages = ("lightning-sfl", "lightning", "torch", "numpy")
        return Report(
            title=f"Privacy audit after round {self._rounds}",
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            metric="accuracy",
            settings={
                "attacker": self.settings.threat_model.description,
                "message log, SHA-256": log.fingerprint(),
                "damaged messages": ", ".join(log.damaged()) or "none",
            },
            versions={name: metadata.version(name) for name in packages},
            rows=tuple(leakage_row(at_cut) for at_cut in found),
            notes=("Costs are not counted here: `lightning-sfl audit` and `tradeoff` put them beside the leakage.",),
        )


class LoggedStrategy(Protocol):
    """What the audit needs of a strategy."""

    cut: str | tuple[str, ...] | Mapping[int, str] | None
    algorithm: object
    message_log: MessageLog | None
    link: "LoggedLink"
    server_inputs: tuple[str, ...]
    aggregate_every: int
    client_optimizer_state: str
    has_fixed_norms: bool

    def run_step(self, module: nn.Module, batch: Any) -> Any:
        """Run a training step in the trainer's precision, on any device."""
        ...


class LoggedLink(Protocol):
    """What the audit needs of a link."""

    log: MessageLog | None


def _strategy_of(trainer: pl.Trainer) -> LoggedStrategy:
    strategy = trainer.strategy
    if not all(hasattr(strategy, name) for name in ("message_log", "link", "run_step")):
        raise MisconfigurationException(
            f"PrivacyAudit reads the messages of SplitFederatedStrategy; strategy={type(strategy).__name__} sends none."
        )
    return cast(LoggedStrategy, strategy)


def _blank(batch: Any) -> Any:
    """A batch of two records of the same shapes without anything in them, on the CPU."""
    few = first_records(batch, 2)
    return replace_tensors(
        few, {name: torch.zeros_like(tensor, device="cpu") for name, tensor in named_tensors(few).items()}
    )


def _auxiliary(trainer: pl.Trainer, name: str) -> Records | None:
    """Records of the validation set, if there is one."""
    found = trainer.val_dataloaders
    loader = found[0] if isinstance(found, list | tuple) and found else found
    return None if not isinstance(loader, DataLoader) else auxiliary_records(loader, name)


@contextlib.contextmanager
def _traceless() -> Iterator[None]:
    """What the attacks draw from the global random state is put back."""
    before = RandomState.capture()
    try:
        yield
    finally:
        before.restore()
