"""`lightning-sfl tradeoff`: train once per cut, attack each, and report what each costs and leaks."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.progress import Progress

from attacks.audit.run import adjusted
from lightning_sfl.cli.attacked import attack_log, budget_text, program_at
from lightning_sfl.cli.job import (
    instantiate,
    make_report,
    metric_of,
    monitor_among,
    row,
    torch_threads,
    write_report,
)
from lightning_sfl.cli.kept_weights import KeptWeights
from lightning_sfl.cut.find import Cut
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.report import CutRow

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI


def tradeoff(cli: "SplitCLI", output: Path) -> None:
    """Carry the command out."""
    config = cli.config["tradeoff"]
    settings = config.report
    rows: list[CutRow] = []
    loggers, monitor = list(cli.trainer.loggers), monitor_among(cli.trainer)
    refuse_earlier_runs(output)
    cuts = chosen_cuts(cli)
    print(budget_text(cli.config_init["tradeoff"].privacy, [cut.name for cut in cuts]))
    output.mkdir(parents=True, exist_ok=True)
    cli._parser("tradeoff").save(config, output / "config.yaml", overwrite=True)
    for place, cut in enumerate(cuts):
        print(f"Cut {place + 1} of {len(cuts)}: {cut.name}")
        rows.append(_train_and_attack(cli, cut, output / "cuts" / cut.name))
    # Significance is a matter of all cells together.
    leakages = adjusted([row.leakage for row in rows if row.leakage is not None])
    rows = [dataclasses.replace(row, leakage=leakage) for row, leakage in zip(rows, leakages, strict=True)]
    strategy = config.trainer.strategy.init_args
    simulated = {} if monitor is None else {"environment": f"{monitor.environment}, seed {monitor.seed}"}
    report = make_report(
        settings.title,
        settings.metric,
        rows,
        {
            "model": config.model.class_path,
            "data": config.data.class_path,
            "algorithm": strategy.algorithm,
            "clients": f"{strategy.num_clients}, {strategy.partition}",
            "seed": str(config.seed_everything),
            "torch threads": torch_threads(),
            **simulated,
        },
    )
    write_report(report, output, loggers)
    print(f"Wrote {output / 'report.html'} and {output / 'report.json'}.")


def refuse_earlier_runs(output: Path) -> None:
    """Raise a ValueError if the folder holds message logs of a run, which may not have come to its report."""
    if (output / "cuts").exists():
        raise ValueError(f"output={str(output)!r} holds the logs of an earlier run (cuts); give another folder.")


def chosen_cuts(cli: "SplitCLI") -> list[Cut]:
    """The cuts to train at: those named, or every valid one; what would stop the report later on is said here.

    Raises:
        CutError: A named cut is not valid.
        ValueError: No cut is named, or one twice; the algorithm has no cut; validation does not log the metric; the
            attack cannot rebuild the private input.
    """
    settings = cli.config["tradeoff"].report
    run = instantiate(cli, {"trainer.logger": False, "trainer.limit_val_batches": 1})
    if not run.strategy.algorithm.uses_cut:
        raise ValueError(f"algorithm={run.strategy.algorithm.name!r} has no cut, and 'tradeoff' trains once per cut.")
    names = settings.cuts
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ValueError(f"report.cuts={names}: name at least one cut, each once, or null for every valid one.")
    run.refuse_second_cut()
    found = run.search()
    cuts = found.cuts() if names is None else [found.cut(name) for name in names]
    for cut in cuts:
        program_at(run, cut.name).image_input(1)
    run.trainer.validate(run.model, datamodule=run.data, verbose=False)
    metric_of(run.trainer, settings.metric)
    return cuts


def _train_and_attack(cli: "SplitCLI", cut: Cut, folder: Path) -> CutRow:
    config = cli.config["tradeoff"]
    csv_logger = Namespace(
        class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(save_dir=str(folder), name="", version="")
    )
    run = instantiate(
        cli,
        {
            "trainer.strategy.init_args.cut": cut.name,
            "trainer.default_root_dir": str(folder),
            "trainer.logger": csv_logger,
        },
    )
    log = MessageLog(keep_rounds=1)  # the newest messages, made by the model as trained
    run.strategy.message_log = log
    kept = KeptWeights() if run.strategy.has_fixed_norms else None
    if kept is not None:
        run.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
    start = time.perf_counter()
    run.trainer.fit(run.model, datamodule=run.data)
    wall_s = time.perf_counter() - start
    run.trainer.validate(run.model, datamodule=run.data, verbose=False)
    accuracy = metric_of(run.trainer, config.report.metric)
    log.save(folder / "log")
    if kept is not None:
        kept.save(folder / "weights.ckpt")
    costs = run.profile([cut], run.trainer.optimizers[0])
    with Progress() as bar:
        task = bar.add_task(f"Attacking {cut.name}", total=1.0)
        (leakage,) = attack_log(
            run,
            log,
            [cut.name],
            cli.config_init["tradeoff"].privacy,
            lambda share: bar.update(task, completed=share),
            client_weights=None if kept is None else kept.weights,
            client_weights_step=None if kept is None else kept.step,
        )
    return row(
        costs,
        leakage,
        run=run,
        accuracy=accuracy,
        rounds=run.strategy.rounds,
        train_wall_s=wall_s,
    )
