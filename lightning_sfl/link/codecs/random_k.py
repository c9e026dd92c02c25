"""Elements drawn at random."""

import dataclasses

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
from lightning_sfl.link.codecs.top_k import check_error_feedback
from lightning_sfl.random import raw_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomK(Codec):
    """Sends k of d elements, drawn without replacement, and the seed that they were drawn with.

    k is the nearest integer to fraction · d, at least 1. The receiver multiplies them by d/k and puts 0 in the other
    places: unbiased, with E‖C(x) - x‖² = (d/k - 1) ‖x‖² (Konečný et al. 2016, arXiv 1610.05492, "random mask"). With
    error feedback they are not multiplied, since the memory needs a contraction: E‖C(x) - x‖² = (1 - k/d) ‖x‖² (Stich
    et al. 2018, "Sparsified SGD with memory").

    Payload: k values of the tensor's type, and 64 bits of seed.

    Attributes:
        fraction: The share of elements that is sent, above 0 and at most 1.
        error_feedback: Whether the sender keeps what it left out and adds it the next time; for client updates.
    """

    fraction: float
    error_feedback: bool = False

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_error_feedback(self.error_feedback)

    @override
    def encoded_form(self, form: Form) -> EncodedForm:
        check_float(form)
        return EncodedForm(Form((part_of(self.fraction, form.count),), form.dtype), {"seed": Form((1,), torch.int64)})

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        form = Form.of(tensor)
        kept = self.encoded_form(form).value.count
        check_finite(tensor)
        seed = draw.new_seed()
        value = tensor.detach().reshape(-1)[drawn_places(form.count, kept, seed).to(tensor.device)]
        if not bool(self._scaled(value, form).isfinite().all()):
            raise ValueError(f"a value becomes too large for its type when it is multiplied by {form.count}/{kept}.")
        return Encoded(value, {"seed": torch.tensor([seed], device=tensor.device)})

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        seed = seed_of(encoded)
        value = self._scaled(encoded.value, form)
        check_finite(value)
        found = torch.zeros(form.count, dtype=form.dtype, device=value.device)
        found[drawn_places(form.count, value.numel(), seed).to(value.device)] = value
        return found.view(form.shape)

    def _scaled(self, value: Tensor, form: Form) -> Tensor:
        if self.error_feedback or not value.numel():
            return value
        return (value.to(form.scale_dtype) * (form.count / value.numel())).to(form.dtype)


def drawn_places(count: int, kept: int, seed: int) -> Tensor:
    """Places of so many of ``count`` elements, in ascending order: those of the smallest of as many random words."""
    words = raw_words(count, seed, "random_k")
    if kept == count:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.argpartition(words, kept)[:kept]))


def seed_of(encoded: Encoded) -> int:
    """The seed that came with a message.

    Raises:
        ValueError: It is below 0.
    """
    seed = int(encoded.side["seed"][0])
    if seed < 0:
        raise ValueError(f"its seed is {seed}, below 0.")
    return seed
