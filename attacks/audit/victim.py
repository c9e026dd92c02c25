"""In which state the victim was when it sent what was attacked."""

import torch
from torch import nn

from attacks.attack import Findings
from attacks.audit.truth import Truth
from attacks.program import Program
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.leakage import Victim

_NAMED = 3
"""So many modules are named at most."""


def evaluating_at(log: MessageLog, cut: str | None) -> tuple[str, ...]:
    """The modules that computed in evaluation mode when a cut's newest messages were made."""
    rounds = [message.round for message in log.messages() if message.cut == cut and message.client is not None]
    return log.evaluating(max(rounds)) if rounds else ()


def victim_of(
    findings: Findings, log: MessageLog, truth: Truth, program: Program, *, from_checkpoint: bool = False
) -> Victim:
    """The state of whoever sent the messages of these findings."""
    numbers = {batch.number for batch in findings.batches}
    messages = [message for message in log.messages() if message.number in numbers]
    tensors = [tensor for message in messages for tensor in message.decoded().values()]
    floating = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()})
    chains = {str(coding.chain) for message in messages for coding in message.codings.values()}
    records = [truth.of(number) for number in sorted(numbers)]
    sizes = {len(part.images_BCHW) for part in records}
    repeated: list[bool] = []
    for part in records:
        if part.labels_B is not None:
            counts = torch.bincount(part.labels_B)
            repeated += [bool(counts[label] > 1) for label in part.labels_B]
    round = max(message.round for message in messages)
    return Victim(
        round=round,
        trained=_trained(round, from_checkpoint),
        mode=_mode(program),
        batch_norm=_batch_norm(program),
        dropout=_dropout(program),
        dtype=", ".join(floating),
        encoded=", ".join(sorted(chains)) or "none",
        batch_sizes=tuple(sorted(sizes)),
        repeated_labels=sum(repeated) / len(repeated) if repeated else None,
    )


def _trained(round: int, from_checkpoint: bool) -> str:
    rounds = f"{round} round{'s' if round != 1 else ''} of training"
    if from_checkpoint:
        return f"a checkpoint's weights{f', and {rounds}' if round else ''}"
    return rounds if round else "untrained, unless it was made with trained weights"


def _mode(program: Program) -> str:
    modules = dict(program.module.named_modules())
    own = [name for name in program.called() if not any(True for _ in modules[name].children())] or [""]
    evaluating = [name for name in own if not modules[name].training and name not in program.dropout]
    if not evaluating:
        return "training"
    if len(evaluating) == len(own):
        return "evaluation"
    if all(isinstance(modules[name], nn.modules.batchnorm._NormBase) for name in evaluating):
        return "training, but for normalisation in evaluation mode"
    more = f" and {len(evaluating) - _NAMED} more" if len(evaluating) > _NAMED else ""
    return f"training, but for {', '.join(evaluating[:_NAMED])}{more} in evaluation mode"


def _dropout(program: Program) -> str:
    modules = dict(program.module.named_modules())
    layers = [name for name in program.called() if isinstance(modules[name], nn.modules.dropout._DropoutNd)]
    if not layers:
        return "none"
    active = [f"{program.dropout[name]:g} in {name}" for name in layers if name in program.dropout]
    return f"at work in the victim, off in attacks: {', '.join(active)}" if active else "off"


def _batch_norm(program: Program) -> str:
    held = None if program.split is None else set(program.split.client_buffers)
    layers = [
        part
        for name, part in program.module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and (held is None or part.running_mean is None or f"{name}.running_mean" in held)
    ]
    if not layers:
        return "none"
    own = {layer.training or not layer.track_running_stats for layer in layers}
    if len(own) == 2:
        return "batch statistics in some layers, running ones in others"
    return "batch statistics" if own.pop() else "running statistics"
