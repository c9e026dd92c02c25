"""What a training step returns to Lightning, out of what it returned for every client."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_sfl.cut.find import loss_of


def together(outputs: Mapping[int, Any], weights: Mapping[int, float]) -> Any:
    """One training step output out of the participants', whose weights add up to 1."""
    if not outputs:
        return None
    losses = [loss_of(output).detach() * weights[client] for client, output in outputs.items()]
    loss = torch.stack(losses).sum(0) if len(losses) > 1 else losses[0]
    if not any(isinstance(output, Mapping) for output in outputs.values()):
        return loss
    merged: dict[str, Any] = {"loss": loss}
    for client, output in outputs.items():
        for key, value in output.items():
            if key != "loss":
                merged.setdefault(key, {})[client] = value
    return merged


def without_graph(output: Any) -> Any:
    """What a step returned, with its loss detached from the graph."""
    loss = loss_of(output).detach()
    return {**output, "loss": loss} if isinstance(output, Mapping) else loss
