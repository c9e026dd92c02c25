"""Numbers in 16 bits."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_sfl.link.codecs.codec import Codec, Draw, Encoded, EncodedForm, Form, check_finite, check_float


class _Half(Codec):
    """Rounds to the nearest number of a 16-bit type."""

    _dtype: ClassVar[torch.dtype]

    @override
    def encoded_form(self, form: Form) -> EncodedForm:
        check_float(form)
        return EncodedForm(Form(form.shape, self._dtype))

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        check_float(Form.of(tensor))
        check_finite(tensor)
        value = tensor.detach().to(self._dtype)
        if value.numel() and not bool(value.isfinite().all()):
            largest = torch.finfo(self._dtype).max
            raise ValueError(f"{type(self).__name__} holds numbers up to {largest:g}, and one of its values is larger.")
        return Encoded(value)

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        check_finite(encoded.value)
        return encoded.value.to(form.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Float16(_Half):
    """IEEE 754 half precision: 16 bits per element.

    |C(x) - x| ≤ max(2^-11 |x|, 2^-25). Above 65504 there is no such number, which is an error.
    """

    _dtype: ClassVar[torch.dtype] = torch.float16


@dataclasses.dataclass(frozen=True, kw_only=True)
class BFloat16(_Half):
    """The upper half of float32: 16 bits per element.

    |C(x) - x| ≤ max(2^-8 |x|, 2^-134), to which a float64's way through float32 adds 2^-24 |x|.
    """

    _dtype: ClassVar[torch.dtype] = torch.bfloat16
