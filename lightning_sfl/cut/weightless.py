"""A module without weights: fake tensors, which have shapes and no values, stand in the place of its own.

A step on it computes nothing and takes no memory worth speaking of, whatever the size of the model; one that was built
on the ``meta`` device has no more to give.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves

from lightning_sfl.cut.batch import named_tensors, record_count, replace_tensors


class ValueRead(RuntimeError):
    """A step looked at a value of a tensor that has none."""


class Weightless:
    """A copy of a module that holds no values.

    Args:
        module: The module; its tensors may be real, on the ``meta`` device, or fake already.

    Attributes:
        module: The copy, on the CPU.
    """

    def __init__(self, module: nn.Module) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        own: dict[int, object] = {}
        for tensor in [*module.parameters(), *module.buffers(), *kept_of_graphs(module)]:
            own[id(tensor)] = self._fake(tensor)
        self.module: nn.Module = copy.deepcopy(module, own)

    def batch(self, batch: Any, records: int | None = None) -> Any:
        """A copy of ``batch`` without values; of so many ``records``, if given."""
        count = record_count(batch)
        return replace_tensors(
            batch,
            {
                name: self._fake(tensor, records if tensor.ndim and len(tensor) == count else None)
                for name, tensor in named_tensors(batch).items()
            },
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context to run the copy in.

        Raises:
            ValueRead: What runs looks at values.
        """
        try:
            with self._mode:
                yield
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ValueRead(str(error)) from error

    def _fake(self, tensor: Tensor, records: int | None = None) -> Tensor:
        shape = tensor.shape if records is None else (records, *tensor.shape[1:])
        with self._mode:
            fake = torch.empty(shape, dtype=tensor.dtype, device="cpu")
            if records is None and not tensor.is_contiguous():
                fake = torch.empty_strided(shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake


def kept_of_graphs(module: nn.Module) -> list[Tensor]:
    """Tensors of a graph that a module keeps (losses, activations), which ``copy.deepcopy`` refuses."""
    kept = [value for submodule in module.modules() for value in tree_leaves(vars(submodule))]
    return [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]


def has_values(module: nn.Module) -> bool:
    """Whether a module's tensors hold values: none is on the ``meta`` device, or fake."""
    tensors = [*module.parameters(), *module.buffers()]
    return not any(tensor.is_meta or hasattr(tensor, "fake_mode") for tensor in tensors)
