"""The dataflow of one training step: which value was computed from which.

A graph from parameters, buffers and batch tensors (the leaves) to the loss, in order of execution, with the visits to
every module marked on it. It follows values rather than gradients, so it also holds frozen parameters, integer inputs,
detached paths and in-place writes.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from enum import Enum

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class LeafKind(Enum):
    """Where a leaf of the graph comes from."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    BATCH = "batch"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A tensor that was there before the step: a parameter, a buffer or a part of the batch, by name."""

    kind: LeafKind
    name: str


@dataclasses.dataclass(frozen=True)
class OutputForm:
    """How a module's output is put together from tensors and plain constants (numbers, strings, None)."""

    spec: TreeSpec
    constants: tuple[bool | int | float | str | None, ...]
    tensors: frozenset[int]

    @classmethod
    def of(cls, output: object) -> "OutputForm":
        """The form of ``output``; an object that is neither tensor nor constant stands as None."""
        leaves, spec = tree_flatten(output)
        constants = tuple(leaf if isinstance(leaf, bool | int | float | str) else None for leaf in leaves)
        return cls(spec, constants, frozenset(place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)))

    def fill(self, tensors: Mapping[int, Tensor]) -> object:
        """An output of this form with ``tensors`` at their places and an empty tensor at those that nobody reads."""
        leaves: list[object] = list(self.constants)
        for place in self.tensors:
            leaves[place] = tensors.get(place, torch.empty(0))
        return tree_unflatten(leaves, self.spec)


@dataclasses.dataclass(frozen=True)
class TensorForm:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def byte(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Visit:
    """One call of a module during the step.

    ``entered`` and ``left`` are times: the number of nodes the graph had. ``outputs`` holds the node of every tensor
    of the flattened output, ``None`` at places that hold no tensor; ``form`` is how the output is put together.
    """

    module: str
    caller: str
    entered: int
    left: int
    outputs: tuple[int | None, ...]
    form: OutputForm
    grad_enabled: bool


@dataclasses.dataclass(frozen=True)
class ScalarRead:
    """Python read a value out of a tensor (`.item()`, `if tensor:`): of ``node``, at ``time``, inside these modules."""

    node: int
    time: int
    modules: frozenset[str]


class Dataflow:
    """The graph of one watched step. Nodes are numbered in order of execution.

    Attributes:
        parents: For every node, the nodes it was computed from.
        sizes: For every node, how many elements it has.
        leaves: What the leaf nodes are.
        aliases: All names of every parameter, by its first name.
        visits: The calls of every watched module.
        scalar_reads: Where Python read a value out of a tensor.
        loss: The nodes of the step's loss.
        buffers_after: The nodes that the step left in the module's buffers.
        passed_on: For an output that was made a fresh tensor, the node that it repeats.
        gates: The autograd nodes of every watched module's last outputs.
        forms: Shape and type of every watched module's last outputs.
    """

    def __init__(self) -> None:
        self.parents: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.leaves: dict[int, Leaf] = {}
        self.aliases: dict[str, list[str]] = {}
        self.visits: dict[str, list[Visit]] = {}
        self.scalar_reads: list[ScalarRead] = []
        self.loss: tuple[int, ...] = ()
        self.buffers_after: tuple[int, ...] = ()
        self.passed_on: dict[int, int] = {}
        self.gates: dict[str, list[Node | None]] = {}
        self.forms: dict[str, list[TensorForm | None]] = {}

    def __len__(self) -> int:
        return len(self.parents)

    def ancestors(self, nodes: Iterable[int], blocked: frozenset[int] = frozenset()) -> set[int]:
        """``nodes`` and everything they were computed from, not looking behind the ``blocked`` nodes.

        A blocked node is left out unless a path leads around it, to what stands behind it.
        """
        found: set[int] = set()
        stack = [node for node in nodes if node not in blocked]
        while stack:
            node = stack.pop()
            if node in found:
                continue
            found.add(node)
            stack.extend(parent for parent in self.parents[node] if parent not in blocked and parent not in found)
        return found

    @functools.cached_property
    def from_parameters(self) -> list[bool]:
        """For every node, whether a parameter is among what it was computed from."""
        found: list[bool] = []
        for node, parents in enumerate(self.parents):
            leaf = self.leaves.get(node)
            found.append(any(found[p] for p in parents) or (leaf is not None and leaf.kind is LeafKind.PARAMETER))
        return found

    @functools.cached_property
    def from_batch(self) -> list[frozenset[str]]:
        """For every node, the batch tensors it was computed from."""
        found: list[frozenset[str]] = []
        for node, parents in enumerate(self.parents):
            leaf = self.leaves.get(node)
            own = frozenset({leaf.name}) if leaf is not None and leaf.kind is LeafKind.BATCH else frozenset()
            found.append(own.union(*(found[p] for p in parents)))
        return found

    def origin(self, node: int) -> int:
        """The node that ``node`` repeats, through any number of modules that passed it on."""
        while node in self.passed_on:
            node = self.passed_on[node]
        return node

    def leaves_among(self, nodes: set[int], kind: LeafKind) -> list[str]:
        """Names of the leaves of one kind in ``nodes``, in the order of the module or batch."""
        return [leaf.name for node, leaf in self.leaves.items() if leaf.kind is kind and node in nodes]
