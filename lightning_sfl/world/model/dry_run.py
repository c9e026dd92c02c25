"""One training step in a ledger, with the places of the cuts marked on it: the clients' and the server's shares."""

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_flatten

from lightning_sfl.cut.find import loss_of
from lightning_sfl.cut.split import Split
from lightning_sfl.world.arrays import BoolArray, FloatArray
from lightning_sfl.world.model.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class Crossed:
    """What crosses up at a cut.

    Attributes:
        reached: The operations that had run when the cut module returned.
        element: The elements of every tensor.
        bit: Their bits.
        gradient_element: The elements of every tensor of the gradient that comes back; none where nothing before the
            cut is trained.
        gradient_bit: Their bits.
        gates: The autograd nodes that the gradient comes back to.
        storages: Where the ledger has it.
    """

    reached: int
    element: tuple[int, ...]
    bit: int
    gradient_element: tuple[int, ...]
    gradient_bit: int
    gates: tuple[Node, ...]
    storages: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Returned:
    """What comes back at the second cut of a U-shape.

    Attributes:
        left: The operations that had run when the second cut module returned.
        element: The elements of every tensor that comes down.
        bit: Their bits.
        gradient_element: The elements of every tensor of their gradient, up.
        gradient_bit: Their bits.
        gates: The autograd nodes that the gradient goes on to.
    """

    left: int
    element: tuple[int, ...]
    bit: int
    gradient_element: tuple[int, ...]
    gradient_bit: int
    gates: tuple[Node, ...]


WHOLE = ""
"""In place of a cut: the client computes everything."""


class DryRun:
    """One step with its backward pass, as a ledger saw it.

    Args:
        module: The module; weightless, or a copy that may be written to.
        splits: The cuts.
        step: Runs one training step and returns its loss.
        trains: Whether gradients are kept and the backward pass runs; else the forward pass alone.
    """

    def __init__(
        self, module: nn.Module, splits: Mapping[str, Split], step: Callable[[], object], *, trains: bool
    ) -> None:
        self._ledger = Ledger()
        self.crossed: dict[str, Crossed] = {}
        self.returned: dict[str, Returned] = {}
        with self._ledger.keeping(), self._marked(module, splits), torch.set_grad_enabled(trains):
            loss = loss_of(step())
            self.forward_time = self._ledger.time
            gates = () if loss.grad_fn is None else (loss.grad_fn,)
            self.crossed[WHOLE] = Crossed(self.forward_time, (), 0, (), 0, gates, frozenset())
            if trains:
                loss.backward()
        self._all_nodes = _behind(gates)
        self._nodes = _in_graph(self._ledger.nodes, self._all_nodes)
        self._flop = self._ledger.flop()
        self._made = self._ledger.made()

    @property
    def time(self) -> int:
        """How many operations have run."""
        return self._ledger.time

    def forward_flop(self, cut: str) -> tuple[float, float]:
        """Client's and server's FLOPs of the forward pass, up to a second cut if there is one.

        A client computes whatever runs until its cut.
        """
        reached, left = self.crossed[cut].reached, self._left(cut)
        return float(self._flop[:reached].sum()), float(self._flop[reached:left].sum())

    def turn_flop(self, cut: str) -> float:
        """FLOPs of the client's second part in a U-shape: from the second cut to the loss, and back."""
        return float(self._flop[self._turn(cut)].sum())

    def backward_flop(self, cut: str) -> tuple[float, float]:
        """Client's and server's FLOPs of the backward pass; the client's is what lies behind the cut in its graph."""
        backward = np.arange(self.time) >= self.forward_time
        own = self._flop[self._first(cut) & backward].sum()
        turn = self._flop[self._turn(cut) & backward].sum()
        return float(own), float(self._flop[backward].sum() - own - turn)

    def training_live_byte(self, cut: str) -> FloatArray:
        """Bytes that the client's half alone holds beside its weights and batch, at every time of a step of its own.

        It holds the smashed data until its backward pass ends, and in that pass the cut gradient. In a U-shape its two
        parts are one graph: it holds of the smashed data what its own backward pass needs, and what has come back until
        it has the gradient of that.
        """
        crossed, client = self.crossed[cut], self._client(cut)
        kept = () if cut in self.returned else crossed.storages
        live = self._ledger.live_byte(client[self._made], kept)
        live[self._first(cut) & (np.arange(self.time) >= self.forward_time)] += crossed.gradient_bit / 8
        live += self._returned_byte(cut)
        live[~client] = 0
        return live

    def forward_live_byte(self, cut: str) -> FloatArray:
        """Bytes that the client's half holds beside its weights and batch, at every time of its forward pass."""
        client = self._client(cut)
        live = self._ledger.live_byte(client[self._made]) + self._returned_byte(cut)
        live[~client] = 0
        return live

    def _client(self, cut: str) -> BoolArray:
        """Whether an operation is the client's, (T,)."""
        return self._first(cut) | self._turn(cut)

    def _first(self, cut: str) -> BoolArray:
        """Whether an operation is of the client's first part, (T,): before the cut, and behind it on the way back."""
        crossed = self.crossed[cut]
        found = self._of(_behind(crossed.gates))
        found[: self.forward_time] = np.arange(self.forward_time) < crossed.reached
        return found

    def _turn(self, cut: str) -> BoolArray:
        """Whether an operation is of the client's second part, (T,)."""
        if cut not in self.returned:
            return np.zeros(self.time, dtype=bool)
        found = self._of(self._all_nodes - _behind(self.returned[cut].gates))
        found[: self.forward_time] = np.arange(self.forward_time) >= self._left(cut)
        return found

    def _of(self, nodes: set[Node]) -> BoolArray:
        return np.array([node in nodes for node in self._nodes], dtype=bool)

    def _left(self, cut: str) -> int:
        return self.returned[cut].left if cut in self.returned else self.forward_time

    def _returned_byte(self, cut: str) -> FloatArray:
        bit = self.returned[cut].bit if cut in self.returned else 0
        return np.where(self._turn(cut), bit / 8, 0.0)

    @contextmanager
    def _marked(self, module: nn.Module, splits: Mapping[str, Split]) -> Iterator[None]:
        with ExitStack() as stack:
            for name, split in splits.items():
                hook = self._hook(name, split.smashed)
                stack.callback(module.get_submodule(name).register_forward_hook(hook).remove)
                if split.back is not None:
                    hook = self._back_hook(name, split.back.outputs)
                    stack.callback(module.get_submodule(split.back.cut).register_forward_hook(hook).remove)
            yield

    def _hook(self, cut: str, places: Sequence[int]) -> Callable[[nn.Module, object, object], None]:
        def reached(_module: nn.Module, _inputs: object, output: object) -> None:
            if cut in self.crossed:  # the backward pass computes it again, under gradient checkpointing
                return
            leaves = tree_flatten(output)[0]
            smashed: list[Tensor] = [leaves[place] for place in places]
            trained = [tensor for tensor in smashed if tensor.requires_grad]
            self.crossed[cut] = Crossed(
                reached=self._ledger.time,
                element=tuple(tensor.numel() for tensor in smashed),
                bit=sum(map(_bit, smashed)),
                gradient_element=tuple(tensor.numel() for tensor in trained),
                gradient_bit=sum(map(_bit, trained)),
                gates=tuple(tensor.grad_fn for tensor in trained if tensor.grad_fn is not None),
                storages=frozenset(self._ledger.storages_of(smashed)),
            )

        return reached

    def _back_hook(self, cut: str, places: Sequence[int]) -> Callable[[nn.Module, object, object], None]:
        def returned(_module: nn.Module, _inputs: object, output: object) -> None:
            if cut in self.returned or cut not in self.crossed:
                return
            tensors: list[Tensor] = [tree_flatten(output)[0][place] for place in places]
            trained = [tensor for tensor in tensors if tensor.requires_grad]
            self.returned[cut] = Returned(
                left=self._ledger.time,
                element=tuple(tensor.numel() for tensor in tensors),
                bit=sum(map(_bit, tensors)),
                gradient_element=tuple(tensor.numel() for tensor in trained),
                gradient_bit=sum(map(_bit, trained)),
                gates=tuple(tensor.grad_fn for tensor in trained if tensor.grad_fn is not None),
            )

        return returned


def _bit(tensor: Tensor) -> int:
    return 8 * tensor.numel() * tensor.element_size()


def _in_graph(nodes: Sequence[Node | None], graph: Container[Node]) -> list[Node | None]:
    """For every operation the graph's node on whose behalf it ran.

    A node may run a backward pass of its own, through a graph that did not exist before: gradient checkpointing does,
    if it is reentrant.
    """
    found: list[Node | None] = []
    for node in nodes:
        found.append(node if node is None or node in graph else found[-1])
    return found


def _behind(gates: Sequence[Node]) -> set[Node]:
    """The autograd nodes that a gradient arriving at the gates goes through."""
    found: set[Node] = set()
    stack = list(gates)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(before for before, _ in node.next_functions if before is not None)
    return found
