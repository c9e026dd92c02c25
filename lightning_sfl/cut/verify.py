"""Two independent checks of a split: by autograd, and by running its halves apart."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_sfl.cut.batch import copied_batch
from lightning_sfl.cut.modes import halt, inject
from lightning_sfl.cut.split import Split


def autograd_disagreement(module: nn.Module, split: Split, loss: Tensor, gates: Iterable[Node | None]) -> str | None:
    """Compare a split with what autograd says.

    Args:
        module: The module whose step gave ``loss``.
        split: The split read off the dataflow.
        loss: The step's loss, with its graph.
        gates: The autograd nodes at the cut module's outputs.

    Returns:
        None if every parameter reached from the loss around the gates is the server's and every one reached from the
        gates is the client's; else the disagreement in words.
    """
    behind = {gate for gate in gates if gate is not None}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    server = _reached([loss.grad_fn], names, behind)
    client = _reached([edge for gate in behind for edge, _ in gate.next_functions], names, set())
    if wrong := server - set(split.server_parameters):
        return f"gradients reach {sorted(wrong)} from the loss without passing the cut"
    if wrong := client - set(split.client_parameters):
        return f"gradients reach {sorted(wrong)} from the cut, although the server reads them"
    return None


def _reached(start: Iterable[Node | None], names: dict[int, str], blocked: set[Node]) -> set[str]:
    seen: set[Node] = set()
    stack = [node for node in start if node is not None]
    found: set[str] = set()
    while stack:
        node = stack.pop()
        if node in seen or node in blocked:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None and id(variable) in names:
            found.add(names[id(variable)])
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return found


def injection_disagreement(
    module: nn.Module,
    split: Split,
    batch: object,
    step: Callable[[Any], Tensor],
    loss: Tensor,
    again: Callable[[], None],
) -> str | None:
    """Run the client's half, then the server's half with blank private inputs, and compare the loss.

    Args:
        module: The module.
        split: The split to check.
        batch: The batch of the whole step.
        step: Runs the step on a batch and returns its loss.
        loss: The loss of the whole step.
        again: Puts random state and buffers back to where the whole step started.

    Returns:
        None if the halves give the loss of the whole (to rounding); else the disagreement in words.
    """
    again()
    halted = halt(module, split, lambda: step(copied_batch(batch)))
    again()
    halves = inject(module, split, step, copied_batch(batch), halted.smashed, random_state=halted.random_state).output
    if torch.allclose(halves, loss, rtol=1e-4, atol=1e-6, equal_nan=True):
        return None
    return f"run apart, with blank private inputs, its halves give a loss of {halves.item()} in place of {loss.item()}"
