"""Two independent checks of a split: by autograd, and by running its halves apart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_sfl.cut.batch import copied_batch
from lightning_sfl.cut.modes import Halted, halt, inject, run_around
from lightning_sfl.cut.split import Split


def autograd_disagreement(
    module: nn.Module, split: Split, loss: Tensor, gates: Mapping[str, Sequence[Node | None]]
) -> str | None:
    """Compare a split with what autograd says.

    Args:
        module: The module whose step gave ``loss``.
        split: The split read off the dataflow.
        loss: The step's loss, with its graph.
        gates: The autograd nodes at every module's outputs, by its name.

    Returns:
        None if every parameter reached from the loss around the cut is the server's and every one reached from the cut
        is the client's (in a U-shape: those reached from the loss around the second cut are the client's, those from
        there around the first the server's); else the disagreement in words.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    cut = {gate for gate in gates[split.cut] if gate is not None}
    start = [loss.grad_fn]
    if split.back is not None:
        back = {gate for gate in gates[split.back.cut] if gate is not None}
        if wrong := _reached(start, names, back | cut) - set(split.client_parameters):
            return f"gradients reach {sorted(wrong)} from the loss without passing {split.back.cut!r}"
        start = _behind(back)
    if wrong := _reached(start, names, cut) - set(split.server_parameters):
        return f"gradients reach {sorted(wrong)} without passing {split.cut!r}"
    if wrong := _reached(_behind(cut), names, set()) - set(split.client_parameters):
        return f"gradients reach {sorted(wrong)} from {split.cut!r}, although the server reads them"
    return None


def _behind(gates: set[Node]) -> list[Node | None]:
    return [edge for gate in gates for edge, _ in gate.next_functions]


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

    In a U-shape the client's program runs once more, through to the loss, with what the server gave.

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
    if isinstance(halves, Halted):
        again()
        halves = run_around(module, split, lambda: step(copied_batch(batch)), _Remembered(halves))
    if torch.allclose(halves, loss, rtol=1e-4, atol=1e-6, equal_nan=True):
        return None
    return f"run apart, with blank private inputs, its halves give a loss of {halves.item()} in place of {loss.item()}"


class _Remembered:
    """A server that has run already."""

    def __init__(self, halted: Halted) -> None:
        self._halted = halted

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What it gave; random numbers go on as if it had run now."""
        self._halted.random_state.restore()
        return self._halted.smashed

    def carry_back(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Nobody asks for gradients."""
        raise NotImplementedError
