"""`lightning-sfl tradeoff`: train once per cut, attack each, and report what each costs and leaks."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import yaml  # type: ignore[import-untyped]
from rich.progress import Progress

from attacks.audit.kept import Kept
from attacks.audit.run import adjusted
from lightning_sfl.cli.attacked import attack_log, budget_text, program_at, used_text
from lightning_sfl.cli.job import (
    Run,
    instantiate,
    make_report,
    metric_of,
    monitor_among,
    row,
    torch_threads,
    write_report,
)
from lightning_sfl.cli.kept_weights import kept_weights
from lightning_sfl.cli.training import Trained, fit, run_in, trained_once
from lightning_sfl.cli.under_policy import (
    FOLDER,
    check_policy,
    note_on,
    policy_among,
    row_name,
    train_under_policy,
    without_policy,
)
from lightning_sfl.cut.find import Cut
from lightning_sfl.report.leakage import CutLeakage
from lightning_sfl.report.report import CutRow

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI


CONTROLS = "controls"
"""Where an unfinished run keeps what attacks found on their controls, which no cut makes any different."""


def tradeoff(cli: "SplitCLI", output: Path) -> None:
    """Carry the command out; where the same command was interrupted, go on with what it trained and found."""
    config = cli.config["tradeoff"]
    settings = config.report
    rows: list[CutRow] = []
    loggers, monitor = list(cli.trainer.loggers), monitor_among(cli.trainer)
    adaptive = policy_among(cli.trainer)
    cuts = chosen_cuts(cli)
    refuse_other_runs(cli, output)
    print(budget_text(cli.config_init["tradeoff"].privacy, [cut.name for cut in cuts]))
    output.mkdir(parents=True, exist_ok=True)
    cli._parser("tradeoff").save(config, output / "config.yaml", overwrite=True)
    decided: list[CutRow] = []
    if adaptive is not None:
        name = row_name(adaptive, [cut.name for cut in cuts])
        print(f"Under a policy: {name}")
        # First, so that what a policy cannot decide is said before the cuts take their time.
        decided.append(train_under_policy(cli, name, output / FOLDER))
    for place, cut in enumerate(cuts):
        print(f"Cut {place + 1} of {len(cuts)}: {cut.name}")
        rows.append(_train_and_attack(cli, cut, output / "cuts" / cut.name, Kept(output / CONTROLS)))
    # Significance is a matter of all cells together.
    leakages = adjusted([row.leakage for row in rows if row.leakage is not None])
    rows = [dataclasses.replace(row, leakage=leakage) for row, leakage in zip(rows, leakages, strict=True)]
    strategy = config.trainer.strategy.init_args
    simulated = {} if monitor is None else {"environment": f"{monitor.environment}, seed {monitor.seed}"}
    policies = {} if adaptive is None else {"policy": f"{decided[0].policy}, rounds per decision: {adaptive.every}"}
    report = make_report(
        settings.title,
        settings.metric,
        [*rows, *decided],
        {
            "model": config.model.class_path,
            "data": config.data.class_path,
            "algorithm": strategy.algorithm,
            "clients": f"{strategy.num_clients}, {strategy.partition}",
            "seed": str(config.seed_everything),
            "torch threads": torch_threads(),
            **simulated,
            **policies,
        },
        [note_on(row) for row in decided],
    )
    write_report(report, output, loggers)
    for cut in cuts:
        Kept(output / "cuts" / cut.name / "findings").remove()
    Kept(output / CONTROLS).remove()
    print(f"Wrote {output / 'report.html'} and {output / 'report.json'}.")


def refuse_other_runs(cli: "SplitCLI", output: Path) -> None:
    """Raise a ValueError if the folder holds what another command has trained: it is not overwritten."""
    if not (output / "cuts").exists() and not (output / FOLDER).exists():
        return
    saved = output / "config.yaml"
    earlier = _plain(saved.read_text(encoding="utf-8")) if saved.is_file() else {}
    ours = _plain(cli._parser("tradeoff").dump(cli.config["tradeoff"]))
    if differing := [name for name in {**earlier, **ours} if earlier.get(name) != ours.get(name)]:
        raise ValueError(
            f"output={str(output)!r} holds an unfinished run of another configuration, which differs in"
            f" {', '.join(differing)}; give another folder, or the same configuration to go on with it."
        )


def _plain(text: str) -> dict[str, object]:
    """A configuration's values by dotted key; where it is written to does not count."""
    found: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            found[prefix] = value

    walk("", yaml.safe_load(text))
    found.pop("output", None)
    return {name: value for name, value in found.items() if value is not None}


def chosen_cuts(cli: "SplitCLI") -> list[Cut]:
    """The cuts to train at: those named, or every valid one; what would stop the report later on is said here.

    Raises:
        CutError: A named cut is not valid.
        MisconfigurationException: A policy among the callbacks has nothing to decide, or no world to decide in.
        ValueError: No cut is named, or one twice; the algorithm has no cut; validation does not log the metric; the
            attack cannot rebuild the private input; a policy has no cut to begin with.
    """
    settings = cli.config["tradeoff"].report
    run = instantiate(cli, {"trainer.logger": False, "trainer.limit_val_batches": 1})
    if not run.strategy.algorithm.uses_cut:
        raise ValueError(f"algorithm={run.strategy.algorithm.name!r} has no cut, and 'tradeoff' trains once per cut.")
    check_policy(run)
    names = settings.cuts
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ValueError(f"report.cuts={names}: name at least one cut, each once, or null for every valid one.")
    found = run.search()
    cuts = found.cuts() if names is None else [found.cut(name) for name in names]
    for cut in cuts:
        program_at(run, cut.name).image_input(1)
    run.trainer.validate(run.model, datamodule=run.data, verbose=False)
    metric_of(run.trainer, settings.metric)
    return cuts


def _train_and_attack(cli: "SplitCLI", cut: Cut, folder: Path, controls: Kept) -> CutRow:
    back = cut.split.back
    place = cut.name if back is None else (cut.name, back.cut)
    run = without_policy(run_in(cli, folder, {"trainer.strategy.init_args.cut": place}))
    metric = cli.config["tradeoff"].report.metric
    costs, log = trained_once(cut.name, run, folder, lambda: _train(run, cut, folder, metric))
    kept = Kept(folder / "findings")
    client_weights, step = kept_weights(folder)
    with Progress() as bar:
        task = bar.add_task(f"Attacking {cut.name}", total=1.0)
        (leakage,) = attack_log(
            run,
            log,
            [cut.name],
            cli.config_init["tradeoff"].privacy,
            lambda share: bar.update(task, completed=share),
            server_weights=run.model.state_dict(),
            client_weights=client_weights,
            client_weights_step=step,
            kept=kept,
            kept_controls=controls,
        )
    print(used_text(kept), end="")
    return dataclasses.replace(costs, leakage=leakage)


def _train(run: Run, cut: Cut, folder: Path, metric: str) -> Trained:
    """Train a cut, and leave its log and its model in the folder."""
    log, wall_s = fit(run, folder)
    nothing_yet = CutLeakage(cut=cut.name, cells=(), not_run=(), wall_s=0.0)
    costs = row(
        run.profile([cut], run.trainer.optimizers[0]),
        nothing_yet,
        run=run,
        accuracy=metric_of(run.trainer, metric),
        rounds=run.strategy.rounds,
        train_wall_s=wall_s,
    )
    return costs, log
