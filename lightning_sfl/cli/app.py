"""``lightning-sfl``: LightningCLI with the commands of this project beside its own."""

import dataclasses
import sys
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from attacks.audit.settings import AuditSettings
from lightning_sfl.cli.job import refuse_existing_report
from lightning_sfl.cli.recipes import recipes_command

_DESCRIPTION = (
    "Split federated learning under PyTorch Lightning, with a privacy audit of every split point."
    " 'lightning-sfl recipes' lists the configurations that come along, and copies them."
)
_OWN_COMMANDS = ("tradeoff", "plan", "audit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What a report is made of.

    Args:
        cuts: Names of the cuts that `tradeoff` trains at; null takes every valid one.
        metric: Name of the accuracy that the module logs in validation.
        title: Title of the report.
    """

    cuts: list[str] | None = None
    metric: str = "val_acc"
    title: str = "Split federated learning"


class Commands(pl.Trainer):
    """The Trainer, with the signatures of this project's commands; :class:`SplitCLI` carries them out."""

    def tradeoff(
        self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None, *, output: str
    ) -> None:
        """Train once per cut, same seed and data order, attack each, and write report.html and report.json.

        Args:
            model: The model.
            datamodule: The data.
            output: Folder to write to; it must not hold a report yet. Where the same command was interrupted, it goes
                on with the cuts that are trained there and the attacks that were done.
        """
        raise NotImplementedError

    def plan(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        environment: str | None = None,
        json: str | None = None,
        gantt: str | None = None,
    ) -> None:
        """Print the table of valid cuts with what they cost every client and a round, without training.

        Args:
            model: The model.
            datamodule: The data.
            environment: Simulated devices, channel and server: wei_chen, hasfl, safsl, or a CSV file of devices. By
                default that of the EfficiencyMonitor among the callbacks, else wei_chen.
            json: File to write the table to as well; it must not exist yet.
            gantt: SVG file to draw one round to, at the strategy's cut; it must not exist yet.
        """
        raise NotImplementedError

    def audit(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        *,
        output: str,
        ckpt_path: str | None = None,
        log: str | None = None,
    ) -> None:
        """Attack what clients send under a trained model, and write report.html and report.json.

        Args:
            model: The model.
            datamodule: The data.
            output: Folder to write to; it must not hold a report yet. Where the same command was interrupted, it goes
                on with the attacks that were done.
            ckpt_path: Checkpoint of the trained model. Without a log, one round of its messages is made and attacked.
            log: Folder of a message log that a run left behind; its newest messages are attacked.
        """
        raise NotImplementedError


class SplitCLI(LightningCLI):
    """LightningCLI with `tradeoff`, `plan` and `audit`."""

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        own = {name: {"model", "datamodule"} for name in _OWN_COMMANDS}
        return {**LightningCLI.subcommands(), **own}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(ReportSettings, "report")
        parser.add_class_arguments(AuditSettings, "privacy")

    @override
    def before_instantiate_classes(self) -> None:
        if self.subcommand in _OWN_COMMANDS:
            self.save_config_callback = None  # these commands save the configuration themselves
            strategy = self.config[self.subcommand].trainer.strategy
            if "message_log" in getattr(strategy, "init_args", ()):
                strategy.init_args.message_log = None  # these commands keep logs of their own
        if self.subcommand == "plan":
            self.config["plan"].trainer.logger = False
        if self.subcommand in ("tradeoff", "audit"):
            refuse_existing_report(Path(self.config[self.subcommand]["output"]))

    def tradeoff(
        self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None = None, *, output: str
    ) -> None:
        """See :meth:`Commands.tradeoff`."""
        from lightning_sfl.cli.tradeoff import tradeoff

        tradeoff(self, Path(output))

    def plan(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        environment: str | None = None,
        json: str | None = None,
        gantt: str | None = None,
    ) -> None:
        """See :meth:`Commands.plan`."""
        from lightning_sfl.cli.plan import plan

        plan(
            self,
            environment=environment,
            json_file=None if json is None else Path(json),
            gantt_file=None if gantt is None else Path(gantt),
        )

    def audit(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        *,
        output: str,
        ckpt_path: str | None = None,
        log: str | None = None,
    ) -> None:
        """See :meth:`Commands.audit`."""
        from lightning_sfl.cli.audit import audit

        audit(self, Path(output), ckpt_path, log)


def main(args: list[str] | None = None) -> None:
    """Run the command line; ``args`` are those of the process if not given."""
    given = sys.argv[1:] if args is None else args
    if given[:1] == ["recipes"]:
        recipes_command(given[1:])
        return
    SplitCLI(
        trainer_class=Commands,
        parser_kwargs={"description": _DESCRIPTION},
        seed_everything_default=0,
        args=args,
    )
