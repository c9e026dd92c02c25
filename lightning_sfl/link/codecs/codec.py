"""What a codec is: it turns a float tensor into one that takes fewer bits, and back as well as it can."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from lightning_sfl.random import raw_words

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class NotFiniteError(ValueError):
    """What was to be encoded holds NaN or infinite values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "Form":
        """The form of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bit(self) -> int:
        """What it takes: elements × bits per element."""
        return 8 * self.count * self.dtype.itemsize

    @property
    def scale_dtype(self) -> torch.dtype:
        """What scales and sums of such a tensor are kept in: float32, and float64 for float64."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of shape {list(self.shape)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """What a codec makes of a tensor.

    Attributes:
        value: The tensor that the next codec of a chain may go on encoding.
        side: What the receiver needs besides, by name.
    """

    value: Tensor
    side: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedForm:
    """The forms of an :class:`Encoded`; the bits of them all are the codec's payload."""

    value: Form
    side: Mapping[str, Form] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """Where a codec's random numbers come from: a function of the seed and of what is encoded, and of nothing else.

    Attributes:
        seed: The run's seed.
        purpose: What the numbers are for.
        counters: Which tensor it is: round, step, client, its place in the message, the codec's place in the chain.
    """

    seed: int
    purpose: str
    counters: tuple[int, ...] = ()

    def at(self, *counters: int) -> "Draw":
        """The draw for one of several things."""
        return dataclasses.replace(self, counters=(*self.counters, *counters))

    def words16(self, count: int, device: torch.device) -> Tensor:
        """Uniform 16-bit words, as int16."""
        raw = raw_words(-(-count // 4), self.seed, self.purpose, *self.counters)
        return torch.from_numpy(raw.view(np.int16)[:count]).to(device)

    def new_seed(self) -> int:
        """A seed that fits into an int64, for a receiver that is to draw the same numbers."""
        return int(raw_words(1, self.seed, self.purpose, *self.counters)[0] >> 1)


class Codec(abc.ABC):
    """Encodes float tensors of any shape, and decodes what it made.

    What it sends is one tensor and side tensors. Their forms follow from the form of what is encoded alone, so the
    payload is known before anything is: the bits of all of them.
    """

    ends_chain: ClassVar[bool] = False
    """Whether the value is packed integers, which no other codec can go on encoding."""

    @abc.abstractmethod
    def encoded_form(self, form: Form) -> EncodedForm:
        """The forms of what a tensor of this form becomes.

        Raises:
            ValueError: The codec cannot encode such a tensor.
        """

    @abc.abstractmethod
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        """Encode a tensor.

        Raises:
            NotFiniteError: It holds NaN or infinite values.
            ValueError: The codec cannot encode such a tensor.
        """

    @abc.abstractmethod
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        """The tensor that the receiver has, of the form of the one encoded.

        Args:
            encoded: What was encoded, in the forms of :meth:`encoded_form`.
            form: The form of the tensor that was.

        Raises:
            ValueError: No encoder makes that.
        """


def check_float(form: Form) -> None:
    """Raise a ValueError unless tensors of this form are floating-point numbers that a codec takes."""
    if form.dtype not in FLOATS:
        raise ValueError(
            f"a codec does not take a tensor of type {str(form.dtype).removeprefix('torch.')}; accepted are float16,"
            " bfloat16, float32 and float64."
        )


def check_finite(tensor: Tensor) -> None:
    """Raise a NotFiniteError if a float tensor holds NaN or infinite values."""
    if tensor.numel() and not bool(torch.stack(torch.aminmax(tensor)).isfinite().all()):
        raise NotFiniteError("it holds NaN or infinite values, which no codec encodes.")


def check_fraction(fraction: object) -> None:
    """Raise a ValueError unless this is a number above 0 and at most 1."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction!r} is not accepted: give a number above 0 and at most 1.")


def part_of(fraction: float, count: int) -> int:
    """How many elements a fraction of so many is: the nearest integer, at least 1 where there are any."""
    return min(count, max(1, round(fraction * count)))
