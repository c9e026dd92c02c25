"""The labels of a data set, for partitions that go by label."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_sfl.random_state import RandomState

_ATTRIBUTES = ("targets", "labels")
_KEYS = ("label", "labels", "target", "targets", "y")


def labels_of(dataset: Dataset[Any]) -> npt.NDArray[np.int64]:
    """One integer label per sample.

    They are taken, in this order, from an attribute ``targets`` or ``labels``, from the last tensor of a
    ``TensorDataset``, from the parts of a ``ConcatDataset``, or by reading every sample once: the last part of a tuple,
    or what stands under ``label``, ``labels``, ``target``, ``targets`` or ``y``. Reading samples leaves the random
    state as it was.

    Returns:
        An array of shape (samples,).

    Raises:
        ValueError: No labels are to be found there, or they are not one integer per sample.
    """
    size = len(cast(Sized, dataset))
    found = _held_labels(dataset)
    if found is None:
        state = RandomState.capture()
        try:
            found = [_label_in(dataset[index], index) for index in range(size)]
        finally:
            state.restore()
    try:
        values = np.asarray(found.cpu() if isinstance(found, Tensor) else found)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (size,) or not _is_whole(values):
        raise ValueError(
            f"partition: the labels of {type(dataset).__name__} must be one integer per sample, shape ({size},), but"
            f" have shape {values.shape} and type {values.dtype}. Give the data set an attribute 'targets'."
        )
    return values.astype(np.int64)


def _is_whole(values: npt.NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).all() and (values == np.round(values)).all())
    return values.dtype.kind in "iub"


def _held_labels(dataset: Dataset[Any]) -> Sequence[Any] | Tensor | npt.NDArray[Any] | None:
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    for name in _ATTRIBUTES:
        held = getattr(dataset, name, None)
        if isinstance(held, Sequence | Tensor | np.ndarray):
            return held
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([labels_of(part) for part in dataset.datasets])
    return None


def _label_in(sample: object, index: int) -> int:
    value: object = None
    if isinstance(sample, Mapping):
        value = next((sample[key] for key in _KEYS if key in sample), None)
    elif isinstance(sample, tuple | list) and len(sample) > 1:
        value = sample[-1]
    if (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, np.ndarray) and value.size == 1):
        value = value.item()
    if not isinstance(value, int | np.integer):
        raise ValueError(
            f"partition: sample {index} of the data set, a {type(sample).__name__}, shows no integer label (looked at"
            f" the last part of a tuple and under {', '.join(_KEYS)}). Give the data set an attribute 'targets'."
        )
    return int(value)
