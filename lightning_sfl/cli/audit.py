"""`lightning-sfl audit`: attack a message log, or the messages that a checkpoint's next round would send."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import Progress

from attacks.audit.kept import Kept
from attacks.audit.run import cuts_of, second_cut_of
from lightning_sfl.cli.attacked import attack_log, budget_text, used_text
from lightning_sfl.cli.job import (
    Run,
    configured_optimizer,
    instantiate,
    make_report,
    metric_of,
    row,
    torch_threads,
    write_report,
)
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI


def audit(cli: "SplitCLI", output: Path, ckpt_path: str | None, log_folder: str | None) -> None:
    """Carry the command out; where the same command was interrupted, go on with what it found.

    Raises:
        ValueError: Neither a checkpoint nor a log is given, the log's cut is not the configured one, or clients are
            sent no weights and no step of the log began with the checkpoint.
    """
    if ckpt_path is None and log_folder is None:
        raise ValueError("audit needs a trained model or what it sent: give --ckpt_path FILE or --log FOLDER.")
    loggers = list(cli.trainer.loggers)
    log = None if log_folder is None else MessageLog.open(log_folder)
    run = instantiate(cli, _QUIET if log is None else {**_QUIET, **_second_cut(cli, log)})
    accuracy: float | None = None
    settings = cli.config["audit"].report
    if ckpt_path is not None:
        checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        run.model.load_state_dict(checkpoint["state_dict"])
        run.trainer.validate(run.model, datamodule=run.data, verbose=False)
        accuracy = metric_of(run.trainer, settings.metric)
    rounds = 0
    step: int | None = None
    if log is None:
        log = _one_round(run)
        rounds = 1
    elif ckpt_path is not None and run.strategy.has_fixed_norms:
        step = _step_begun_with(checkpoint, ckpt_path, log)
    names = cuts_of(log)
    if not names:
        raise ValueError(f"log={log_folder!r} holds no whole message, so there is nothing to attack.")
    found = run.search()
    cuts = [None if name is None else found.cut(name) for name in names]
    privacy = cli.config_init["audit"].privacy
    print(budget_text(privacy, names))
    kept = Kept(output / "findings")
    with Progress() as bar:
        task = bar.add_task("Attacking", total=1.0)
        leakages = attack_log(
            run,
            log,
            names,
            privacy,
            lambda share: bar.update(task, completed=share),
            server_weights=None if ckpt_path is None else checkpoint["state_dict"],
            client_weights=None if ckpt_path is None else checkpoint["state_dict"],
            from_checkpoint=log_folder is None,
            kept=kept,
            client_weights_step=step,
        )
    print(used_text(kept), end="")
    optimizer = configured_optimizer(run.model)
    rows = [
        row(
            None if cut is None else run.profile([cut], optimizer),
            leakage,
            run=run,
            accuracy=accuracy,
            rounds=rounds,
            train_wall_s=None,
        )
        for cut, leakage in zip(cuts, leakages, strict=True)
    ]
    source = {"checkpoint": str(ckpt_path), "message log": log_folder or "one round made from the checkpoint"}
    held = {"message log, SHA-256": log.fingerprint(), "damaged messages": ", ".join(log.damaged()) or "none"}
    report = make_report(settings.title, settings.metric, rows, {**source, **held, "torch threads": torch_threads()})
    write_report(report, output, loggers)
    kept.remove()
    print(f"Wrote {output / 'report.html'} and {output / 'report.json'}.")


def _second_cut(cli: "SplitCLI", log: MessageLog) -> dict[str, object]:
    """Have the run's second cut be the log's, which gives the first cuts too."""
    configured = cli.config["audit"].trainer.strategy
    given = configured.init_args.cut if hasattr(configured, "init_args") else None
    last = second_cut_of(log)
    if (given[1] if isinstance(given, tuple | list) else None) == last:
        return {}
    first = next(iter(cuts_of(log)), None)
    return {"trainer.strategy.init_args.cut": first if last is None else (first, last)}


def _step_begun_with(checkpoint: Mapping[str, Any], ckpt_path: str, log: MessageLog) -> int:
    """The step of a log that began with a checkpoint's weights, where clients are sent none."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
    step: int = checkpoint["global_step"] if progress is None else progress["total"]["processed"]
    steps = sorted({message.step for message in log.messages(kinds=[MessageKind.SMASHED])})
    if step not in steps:
        held = f"{steps[0]} to {steps[-1]}" if steps else "none"
        raise ValueError(
            f"ckpt_path={ckpt_path!r}: step {step} begins with its weights, and the log holds steps {held} (counted"
            " from 0). Clients that run forward only are sent no weights, so what they sent can be attacked only with"
            " those of a checkpoint that was saved just before one of these steps, such as 'tradeoff' leaves beside"
            " every log."
        )
    return step


_QUIET: dict[str, object] = {
    "trainer.max_epochs": 1,
    "trainer.logger": False,
    "trainer.callbacks": None,
    "trainer.enable_checkpointing": False,
    "trainer.num_sanity_val_steps": 0,
    "trainer.limit_train_batches": 1,
}


def _one_round(run: Run) -> MessageLog:
    """The messages of one step of training, which start from the weights as they are."""
    log = MessageLog()
    run.strategy.message_log = log
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.trainer.fit(run.model, datamodule=run.data)
    run.model.load_state_dict(weights)
    return log
