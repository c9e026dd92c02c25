"""A run as its attackers see it: what there is to know of it, and the truth to score them with."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from attacks.attacker import Background, Records
from attacks.audit.kept import Kept
from attacks.audit.run import WHOLE_MODEL, audit
from attacks.audit.settings import AuditSettings
from attacks.audit.truth import auxiliary_records, batch_sizes_of, known_labels_of, records_of
from attacks.audit.victim import evaluating_at
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.program import Program
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.cli.job import Run, configured_optimizer
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.leakage import CutLeakage


def attack_log(
    run: Run,
    log: MessageLog,
    cuts: Sequence[str | None],
    settings: AuditSettings,
    progress: Callable[[float], None],
    *,
    server_weights: Mapping[str, Tensor] | None,
    client_weights: Mapping[str, Tensor] | None = None,
    client_weights_step: int | None = None,
    from_checkpoint: bool = False,
    kept: Kept | None = None,
    kept_controls: Kept | None = None,
) -> list[CutLeakage]:
    """Attack a run's messages at some cuts; see :func:`attacks.audit.run.audit`.

    Args:
        run: The run.
        log: Its messages.
        cuts: The cuts; None among them: clients hold the whole model.
        settings: How to attack.
        progress: Told the share of the work done.
        server_weights: The model's weights after the newest message; None where only messages are left of the run.
        client_weights: The weights that a step was made with, where no broadcast says so.
        client_weights_step: Which step; None: the newest.
        from_checkpoint: Whether the run began from a checkpoint.
        kept: Where findings are kept, to go on from after an interruption.
        kept_controls: Where those on controls are kept, which audits of several logs have in common; None: with the
            others.

    Raises:
        ValueError: The messages are those of another model.
    """
    programs = {cut: program_at(run, cut, evaluating_at(log, cut)) for cut in cuts}
    name, (_, channels, height, width), _ = programs[cuts[0]].image_input(1)
    optimizer = configured_optimizer(run.model)
    loader = _validation_loader(run)

    def records(indices: tuple[int, ...]) -> Records:
        return records_of(run.collate(list(indices)), name)

    background = Background(
        program=programs.__getitem__,
        space=ImageSpace(shape_CHW=(channels, height, width), low=settings.input_low, high=settings.input_high),
        auxiliary=None if loader is None else auxiliary_records(loader, name),
        server_weights=server_weights,
        client_weights=client_weights,
        client_weights_step=client_weights_step,
        probing=run.strategy.algorithm if isinstance(run.strategy.algorithm, ForwardOnly) else None,
        optimizer=None
        if optimizer is None
        else LocalOptimizer.of(
            optimizer,
            steps=run.strategy.aggregate_every,
            keeps_state=run.strategy.client_optimizer_state == "keep",
        ),
        batch_sizes=batch_sizes_of(log),
        from_checkpoint=from_checkpoint,
        known_labels=known_labels_of(log, records),
    )

    try:
        return audit(
            log,
            background,
            records,
            settings,
            cuts=cuts,
            progress=progress,
            kept=kept,
            kept_controls=kept_controls,
        )
    except ValueError as error:
        raise ValueError(f"{error} (message log with SHA-256 {log.fingerprint()})") from error


def budget_text(settings: AuditSettings, cuts: Sequence[str | None]) -> str:
    """What an audit is about to spend."""
    where = ", ".join(cut or WHOLE_MODEL for cut in cuts)
    lines = [
        f"Audit of {len(cuts)} cut(s) ({where}): whole batches until {settings.records} records at each, by"
        f" {settings.threat_model.name}; each attack also runs on a control. Per batch:"
    ]
    return "\n".join([*lines, *(f"  {attack.name}: {attack.budget}" for attack in settings.chosen)])


def used_text(kept: Kept) -> str:
    """What of an earlier run was used."""
    return "".join(f"Taken from an earlier run: {found}.\n" for found in kept.used)


def program_at(run: Run, cut: str | None, evaluating: Collection[str] = ()) -> Program:
    """The model's program as an attacker runs it, with these modules in evaluation mode."""
    split = None if cut is None else run.search().cut(cut).split
    return Program(
        run.converted_model(),
        split,
        run.first_batch(most=2),
        step=run.step,
        fixed_norms=run.strategy.has_fixed_norms,
        evaluating=evaluating,
    )


def _validation_loader(run: Run) -> DataLoader[Any] | None:
    try:
        loaders = run.data.val_dataloader()
    except MisconfigurationException:
        return None
    loader: DataLoader[Any] = loaders[0] if isinstance(loaders, list | tuple) else loaders
    return loader
