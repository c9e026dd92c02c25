"""What a program computes and holds, operation by operation: FLOPs, and the bytes of every tensor while it lives."""

import dataclasses
import gc
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

Shape = tuple[int, ...]


def _attention_flop(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    flop: int = sdpa_flop_count(query, key, value)
    return flop


def _attention_backward_flop(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    flop: int = sdpa_backward_flop_count(gradient, query, key, value)
    return flop


# Attention on a CPU, which torch 2.11 does not count by itself.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


@dataclasses.dataclass
class _Storage:
    """A piece of memory: its bytes, the operation that made it, and the first one after which it was gone."""

    byte: int
    made: int
    gone: int | None = None


class Ledger(TorchDispatchMode):
    """Notes every operation that runs while it is entered by :meth:`keeping`.

    The time is the number of operations so far. An operation of a backward pass belongs to the autograd node that runs
    it.

    Attributes:
        nodes: For every operation the autograd node that ran it; None in a forward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node | None] = []
        self._flop: list[int] = []
        self._storages: list[_Storage] = []
        self._place: dict[int, int] = {}  # of those alive, by address
        self._counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Note what runs in this context.

        No garbage is collected meanwhile, so that what lives in cycles of references lives equally long in every run.
        """
        collects = gc.isenabled()
        gc.disable()
        with ExitStack() as stack:
            if collects:
                stack.callback(gc.enable)
            stack.enter_context(self._counter)
            stack.enter_context(self)
            yield

    @property
    def time(self) -> int:
        """How many operations have run."""
        return len(self.nodes)

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "prim":  # asks what a tensor is, and computes nothing
            return func(*args, **(kwargs or {}))
        known = {_key(tensor) for tensor in _tensors((args, kwargs))}
        before = self._counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        self._flop.append(self._counter.get_total_flops() - before)
        for tensor in _tensors(result):
            if _key(tensor) not in known:
                known.add(_key(tensor))
                self._note(tensor.untyped_storage())
        self.nodes.append(torch._C._current_autograd_node())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        held = _Storage(storage.nbytes(), made=self.time)
        self._place[storage._cdata] = len(self._storages)
        self._storages.append(held)
        weakref.finalize(storage, self._let_go, held).atexit = False

    def _let_go(self, held: _Storage) -> None:
        held.gone = self.time

    def flop(self) -> FloatArray:
        """FLOPs of every operation, (T,)."""
        return np.array(self._flop, dtype=np.float64)

    def made(self) -> IntArray:
        """For every storage, the operation that made it, (S,)."""
        return np.array([storage.made for storage in self._storages], dtype=np.int64)

    def storages_of(self, tensors: Iterable[Tensor]) -> set[int]:
        """Which storages these tensors lie in; those that were there before are left out."""
        return {self._place[key] for key in map(_key, tensors) if key in self._place}

    def live_byte(self, counts: BoolArray | None = None, kept: Collection[int] = ()) -> FloatArray:
        """Bytes alive right after every operation, (T,).

        Args:
            counts: The storages that count, (S,); None counts all of them.
            kept: Storages that are held to the end whatever became of them.
        """
        change = np.zeros(self.time + 1)
        for place, storage in enumerate(self._storages):
            if counts is None or counts[place]:
                change[storage.made] += storage.byte
                lasts = storage.gone is None or place in kept
                change[self.time if lasts else storage.gone] -= storage.byte
        return np.cumsum(change)[:-1]


def _tensors(tree: object) -> list[Tensor]:
    found = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    if sparse := next((tensor.layout for tensor in found if tensor.layout is not torch.strided), None):
        raise ValueError(
            f"The training step makes tensors of layout={sparse}, whose memory is not counted; accepted are dense ones,"
            " as of Embedding(sparse=False)."
        )
    return found


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
