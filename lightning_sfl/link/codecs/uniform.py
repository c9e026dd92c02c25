"""Uniform quantisation: every number becomes the number of one of 2^bits levels, evenly spaced from least to largest.

The quantiser of SFLAM (arXiv 2504.09114), in the standard form of its analysis (a reconstruction): with step
s = (max - min) / (2^bits - 1), the level just below or just above, at random so that the mean is right.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lightning_sfl.link.codecs.codec import Codec, Draw, Encoded, EncodedForm, Form, NotFiniteError, check_float
from lightning_sfl.link.codecs.packing import pack, packed_byte, unpack

Numbers = NDArray[np.float64]

_PIECE = 2**18
"""Elements that are rounded at a time, so that they stay in the processor's cache; every piece has its own draw."""

# Sizes between which the arithmetic neither overflows nor loses bits, with room for (2^bits - 1) / range.
_ORDINARY = {torch.float32: (2.0**-64, 2.0**64), torch.float64: (2.0**-900, 2.0**900)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformQuantiser(Codec):
    """What the two ways of rounding have in common.

    Payload of N elements: ⌈N · bits / 8⌉ bytes of levels, and per tensor or channel the least and the largest value as
    float32 (float64 for float64 tensors), so 8 · ⌈N · bits / 8⌉ + 64 bits per tensor. Equal numbers decode exactly.

    Attributes:
        bits: Bits per element, from 1 to 16.
        channel_dim: The dimension along which every channel has levels of its own; None: one set for the tensor.
    """

    ends_chain: ClassVar[bool] = True

    bits: int
    channel_dim: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 16:
            raise ValueError(f"bits={self.bits!r} is not accepted: give an integer from 1 to 16.")
        if isinstance(self.channel_dim, bool) or not isinstance(self.channel_dim, int | None):
            raise ValueError(f"channel_dim={self.channel_dim!r} is not accepted: give an integer, or None.")

    @override
    def encoded_form(self, form: Form) -> EncodedForm:
        check_float(form)
        levels = Form((packed_byte(form.count, self.bits),), torch.uint8)
        return EncodedForm(levels, {"range": Form((2, self._channels(form)), form.scale_dtype)})

    def _channels(self, form: Form) -> int:
        if self.channel_dim is None:
            return 1
        dims = len(form.shape)
        if not -dims <= self.channel_dim < dims:
            raise ValueError(
                f"channel_dim={self.channel_dim} does not go with a tensor of shape {list(form.shape)}, which has"
                f" {dims} dimensions."
            )
        return form.shape[self.channel_dim]

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        form = Form.of(tensor)
        channels = self.encoded_form(form).side["range"].shape[1]
        rows = tensor.detach()
        if self.channel_dim is not None and rows.numel():
            rows = rows.movedim(self.channel_dim, 0)
        if not rows.numel():
            range = torch.zeros(2, channels, dtype=form.scale_dtype, device=tensor.device)
            return Encoded(torch.zeros(0, dtype=torch.uint8, device=tensor.device), {"range": range})
        rows = rows.reshape(channels, -1).contiguous()
        # Along one dimension it is slower by far.
        least_and_largest = torch.aminmax(rows) if channels == 1 else torch.aminmax(rows, dim=1)
        range = torch.stack(least_and_largest).view(2, channels).to(form.scale_dtype)
        ends = _on_cpu(range)
        if not np.isfinite(ends).all():
            raise NotFiniteError("it holds NaN or infinite values, which no codec encodes.")
        levels = _Levels.of(ends, self._last, self._working(form))
        numbers = torch.empty(form.count, dtype=torch.uint8 if self.bits <= 8 else torch.int32, device=tensor.device)
        piece = _PIECE if channels == 1 else form.count
        for place, (part, into) in enumerate(zip(rows.split(piece, dim=1), numbers.split(piece), strict=True)):
            rounded = self._rounded(levels.number(part, self._units), draw.at(place))
            into.copy_(rounded.view(-1))
        return Encoded(pack(numbers, self.bits), {"range": range})

    @property
    def _last(self) -> int:
        """The number of the last level."""
        return int(2**self.bits - 1)

    @property
    def _units(self) -> int:
        """Units per step that the rounding starts from."""
        return 1

    def _rounded(self, units: Tensor, draw: Draw) -> Tensor:
        """Numbers of levels, from numbers from 0 to (2^bits - 1) · units, which may be changed."""
        raise NotImplementedError

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        range = encoded.side["range"]
        ends = _on_cpu(range)
        if not np.isfinite(ends).all():
            raise ValueError("the ends of its range are not finite.")
        if not (ends[0] <= ends[1]).all():
            raise ValueError("its range begins above its end.")
        numbers = unpack(encoded.value, self.bits, form.count)
        if not form.count:
            return torch.zeros(form.shape, dtype=form.dtype, device=encoded.value.device)
        levels = _Levels.of(ends, self._last, self._working(form))
        found = levels.value(numbers.view(range.shape[1], -1)).to(form.dtype)
        if self.channel_dim is None:
            return found.view(form.shape)
        place = self.channel_dim % len(form.shape)
        others = (*form.shape[:place], *form.shape[place + 1 :])
        return found.view(-1, *others).movedim(0, place).contiguous()

    def _working(self, form: Form) -> torch.dtype:
        return torch.float32 if self.bits <= 8 and form.dtype != torch.float64 else torch.float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticUniform(UniformQuantiser):
    """Rounds up or down at random, so that the mean is the number itself.

    Unbiased, and E‖Q(z) - z‖² ≤ N (max - min)² / (4 (2^bits - 1)²): the error falls fourfold per bit (SFLAM, arXiv
    2504.09114; its analysis in the standard form of Alistarh et al. 2017, QSGD). Chances come in 2^-16 of a step (2^-15
    at 16 bits), so up to rounding in the tensor's own type the bias is at most 2^-13 of a step. The random words are
    16 bits per element, which are not sent.
    """

    @property
    @override
    def _units(self) -> int:
        return 2**15 if self.bits == 16 else 2**16  # a level and its units fit into an int32

    @override
    def _rounded(self, units: Tensor, draw: Draw) -> Tensor:
        words = draw.words16(units.numel(), units.device).view(units.shape)
        numbers = units.to(torch.int32).clamp_(max=self._last * self._units)
        if self.bits == 16:
            numbers.add_(words & 0x7FFF)
        else:
            numbers.add_(words).add_(2**15)  # words are signed
        return numbers.bitwise_right_shift_(self._units.bit_length() - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestUniform(UniformQuantiser):
    """Rounds to the nearest level: |Q(z) - z| ≤ (max - min) / (2 (2^bits - 1)).

    Up to rounding in the tensor's own type, and to 2^-13 of a step.
    """

    @override
    def _rounded(self, units: Tensor, draw: Draw) -> Tensor:
        return units.round_().to(torch.int32).clamp_(max=self._last)


@dataclasses.dataclass(frozen=True)
class _Levels:
    """Where the levels of every row lie.

    Attributes:
        dtype: What is computed in.
        least: The first level of every row, (C,).
        largest: The last, (C,).
        step: From one to the next, (C,).
        exponent: Of the power of two that these three are to be multiplied by, so that even the difference of the
            largest numbers is one and a part of the least ones is; None where it is 1 for all rows.
    """

    dtype: torch.dtype
    least: Numbers
    largest: Numbers
    step: Numbers
    exponent: NDArray[np.int32] | None

    @classmethod
    def of(cls, ends: Numbers, last: int, dtype: torch.dtype) -> "_Levels":
        """The levels from 0 to ``last`` of rows with these least and largest values, (2, C)."""
        size = np.abs(ends).max(0)
        low, high = _ORDINARY[dtype]
        exponent = None
        if not ((size == 0) | ((size > low) & (size < high))).all():
            exponent, dtype = np.frexp(size)[1], torch.float64
            ends = _times_power(ends, -exponent)
        least, largest = ends
        return cls(dtype, least, largest, (largest - least) / last, exponent)

    def number(self, rows: Tensor, units: int) -> Tensor:
        """How many steps each element lies above the first level, times ``units``."""
        if self.exponent is not None:
            rows = self._scaled(rows.double(), -self.exponent)
        factor = np.divide(units, self.step, out=np.zeros_like(self.step), where=self.step > 0)
        return (rows.to(self.dtype) - self._column(self.least, rows)).mul_(self._column(factor, rows))

    def value(self, numbers: Tensor) -> Tensor:
        """The levels of these numbers."""
        rows = numbers.to(self.dtype).mul_(self._column(self.step, numbers)).add_(self._column(self.least, numbers))
        if self.exponent is None:
            return rows
        # Rounding may lead beyond the last level, which may be the largest of all numbers.
        return self._scaled(rows.clamp_(max=self._column(self.largest, numbers)), self.exponent)

    def _scaled(self, rows: Tensor, exponent: NDArray[np.int32]) -> Tensor:
        """Multiplied by powers of two that may themselves be no numbers: in two halves."""
        half = exponent // 2
        return rows * self._column(np.ldexp(1.0, half), rows) * self._column(np.ldexp(1.0, exponent - half), rows)

    def _column(self, values: Numbers, like: Tensor) -> Tensor | float:
        """One value per row."""
        if len(values) == 1:
            return float(values[0])
        return torch.from_numpy(values[:, None]).to(like.device, self.dtype)


def _times_power(values: Numbers, exponent: NDArray[np.int32]) -> Numbers:
    half = exponent // 2
    scaled: Numbers = values * np.ldexp(1.0, half) * np.ldexp(1.0, exponent - half)
    return scaled


def _on_cpu(range: Tensor) -> Numbers:
    """The ends of rows as (2, C) in float64."""
    ends: Numbers = range.to("cpu", torch.float64).numpy()
    return ends
