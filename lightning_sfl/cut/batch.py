"""The tensors of a batch, by name.

A batch is whatever the user's loader yields: a tensor, or nested mappings, sequences and dataclasses of tensors. Each
tensor is named by its place: ``"input_ids"`` in ``{"input_ids": ...}``, ``"0"`` in ``(images, labels)``, ``"0.mask"``
deeper down, and ``"batch"`` where the batch is one bare tensor.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BARE = "batch"


def named_tensors(batch: object) -> dict[str, Tensor]:
    """The tensors of ``batch`` by name, in order of appearance."""
    return {name or _BARE: leaf for name, leaf in _leaves(batch, "") if isinstance(leaf, Tensor)}


def replace_tensors(batch: Any, replacement: Mapping[str, Tensor]) -> Any:
    """A shallow copy of ``batch`` whose tensors named in ``replacement`` are exchanged.

    Raises:
        ValueError: A name is not that of a tensor in ``batch``.
    """
    known = named_tensors(batch)
    if unknown := [name for name in replacement if name not in known]:
        raise ValueError(f"replacement names {unknown} are not in the batch, whose tensors are {list(known)}.")
    return _replace(batch, replacement, "")


def copied_batch(batch: Any) -> Any:
    """A copy of ``batch`` that a step may change as it likes: containers of their own, and tensors too."""
    return replace_tensors(batch, {name: tensor.detach().clone() for name, tensor in named_tensors(batch).items()})


def differing_value(one: object, other: object) -> str | None:
    """The name of a value that is no tensor and not the same in both batches; None if there is none."""
    values: list[dict[str, Any]] = [
        {name or _BARE: leaf for name, leaf in _leaves(batch, "") if not isinstance(leaf, Tensor)}
        for batch in (one, other)
    ]
    for name in {**values[0], **values[1]}:
        if any(name not in found for found in values) or not np.array_equal(values[0][name], values[1][name]):
            return name
    return None


def record_count(batch: object) -> int:
    """How many records the batch holds: the first dimension of its first tensor that has one.

    Raises:
        ValueError: The batch holds no tensor with a dimension.
    """
    for tensor in named_tensors(batch).values():
        if tensor.ndim > 0:
            return tensor.shape[0]
    raise ValueError(
        f"The batch, a {type(batch).__name__}, holds no tensor with a batch dimension. Accepted are tensors, and"
        " mappings, sequences and dataclasses of them, nested as you like."
    )


def first_records(batch: Any, count: int) -> Any:
    """The first ``count`` records of ``batch``: every tensor with as many rows as there are records is cut short."""
    total = record_count(batch)
    short = {
        name: tensor[:count]
        for name, tensor in named_tensors(batch).items()
        if tensor.ndim > 0 and tensor.shape[0] == total
    }
    return replace_tensors(batch, short)


def _join(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def _children(value: object) -> list[tuple[object, object]] | None:
    """The named parts of a container, or None for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _leaves(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    parts = _children(value)
    if parts is None:
        yield prefix, value
        return
    for name, part in parts:
        yield from _leaves(part, _join(prefix, name))


def _replace(value: Any, replacement: Mapping[str, Tensor], prefix: str) -> Any:
    if isinstance(value, torch.Tensor):
        return replacement.get(prefix or _BARE, value)
    parts = _children(value)
    if parts is None:
        return value
    new = {name: _replace(part, replacement, _join(prefix, name)) for name, part in parts}
    if isinstance(value, Mapping):
        shallow: Any = copy.copy(value)  # keeps subclasses such as a tokenizer's encoding
        for name, part in new.items():
            shallow[name] = part
        return shallow
    if isinstance(value, tuple):
        return type(value)(*new.values()) if hasattr(value, "_fields") else type(value)(new.values())
    if isinstance(value, list):
        return type(value)(new.values())
    return dataclasses.replace(value, **{str(name): part for name, part in new.items()})
