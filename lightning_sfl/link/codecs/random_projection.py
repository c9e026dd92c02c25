"""Coefficients in a randomly turned basis."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_sfl.link.codecs.codec import (
    Codec,
    Draw,
    Encoded,
    EncodedForm,
    Form,
    check_finite,
    check_float,
    check_fraction,
    part_of,
)
from lightning_sfl.link.codecs.random_k import drawn_places, seed_of
from lightning_sfl.random import raw_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomProjection(Codec):
    """Projects onto k random directions: random signs, Walsh-Hadamard transform, k of its coefficients.

    With n the power of two from d upwards (zeros fill up), H the n × n Hadamard matrix divided by √n, D random signs
    and S a choice of k rows without replacement, y = S H D x is sent and decodes to (n/k) D Hᵀ Sᵀ y: unbiased, with
    E‖C(x) - x‖² ≤ (n/k - 1) ‖x‖², with equality where d = n (Ailon & Chazelle 2006; Konečný et al. 2016, arXiv
    1610.05492, "structured random rotations"). k is the nearest integer to fraction · d, at least 1. Coefficients are
    of one size, which a quantiser behind it gains from.

    Payload: k coefficients in float32 (float64 for float64 tensors), and 64 bits of seed.

    Attributes:
        fraction: Coefficients sent per element, above 0 and at most 1.
    """

    fraction: float

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    @override
    def encoded_form(self, form: Form) -> EncodedForm:
        check_float(form)
        value = Form((part_of(self.fraction, form.count),), form.scale_dtype)
        return EncodedForm(value, {"seed": Form((1,), torch.int64)})

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        form = Form.of(tensor)
        kept = self.encoded_form(form).value.count
        check_finite(tensor)
        seed = draw.new_seed()
        turned = _transformed(_filled(tensor.detach().reshape(-1).to(form.scale_dtype)) * _signs(form, seed, tensor))
        value = turned[drawn_places(_power_of_two(form.count), kept, seed).to(tensor.device)]
        found = Encoded(value, {"seed": torch.tensor([seed], device=tensor.device)})
        if not bool(value.isfinite().all()) or not bool(self._back(found, form).isfinite().all()):
            raise ValueError("its values are too large for their type to be projected and back.")
        return found

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        found = self._back(encoded, form)
        check_finite(found)
        return found

    def _back(self, encoded: Encoded, form: Form) -> Tensor:
        seed, value = seed_of(encoded), encoded.value
        size, kept = _power_of_two(form.count), value.numel()
        turned = torch.zeros(size if kept else 0, dtype=form.scale_dtype, device=value.device)
        if kept:
            turned[drawn_places(size, kept, seed).to(value.device)] = value * (size / kept)
        found = _transformed(turned) * _signs(form, seed, value)
        return found[: form.count].to(form.dtype).view(form.shape)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length() if count else 0


def _filled(flat: Tensor) -> Tensor:
    return torch.nn.functional.pad(flat, (0, _power_of_two(flat.numel()) - flat.numel()))


def _signs(form: Form, seed: int, like: Tensor) -> Tensor:
    """As many random signs, 1 or -1."""
    count = _power_of_two(form.count)
    words = raw_words(-(-count // 64), seed, "random_signs")
    bits = np.unpackbits(words.view(np.uint8), count=count)
    return torch.from_numpy(bits).to(like.device).to(form.scale_dtype).mul_(-2).add_(1)


def _transformed(flat: Tensor) -> Tensor:
    """The Walsh-Hadamard transform, divided by √n, of n elements; its own inverse."""
    size, half = flat.numel(), 1
    while half < size:
        pairs = flat.view(-1, 2, half)
        flat = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1).view(-1)
        half *= 2
    return flat / math.sqrt(size) if size else flat
