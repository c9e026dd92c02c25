"""In which state the victim was when it sent what was attacked."""

import torch
from torch import nn

from attacks.attack import Findings
from attacks.audit.truth import Truth
from attacks.program import Program
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.leakage import Victim


def victim_of(findings: Findings, log: MessageLog, truth: Truth, program: Program) -> Victim:
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
    return Victim(
        round=max(message.round for message in messages),
        mode="training",
        batch_norm=_batch_norm(program),
        dtype=", ".join(floating),
        encoded=", ".join(sorted(chains)) or "none",
        batch_sizes=tuple(sorted(sizes)),
        repeated_labels=sum(repeated) / len(repeated) if repeated else None,
    )


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
