"""Signs alone, and one size for all."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_sfl.link.codecs.codec import Codec, Draw, Encoded, EncodedForm, Form, check_finite, check_float
from lightning_sfl.link.codecs.packing import pack, packed_byte, unpack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign(Codec):
    """Sends every element's sign and their mean magnitude m = ‖x‖₁/d; elements decode to m or -m (0 counts as above 0).

    ‖C(x) - x‖² = (1 - ‖x‖₁² / (d ‖x‖²)) ‖x‖², up to the rounding of m: a contraction, biased (Karimireddy et al. 2019,
    "Error feedback fixes SignSGD", arXiv 1901.09847).

    Payload: ⌈d / 8⌉ bytes of signs, and the magnitude as float32 (float64 for float64 tensors).
    """

    ends_chain: ClassVar[bool] = True

    @override
    def encoded_form(self, form: Form) -> EncodedForm:
        check_float(form)
        return EncodedForm(
            Form((packed_byte(form.count, 1),), torch.uint8), {"magnitude": Form((1,), form.scale_dtype)}
        )

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        form = Form.of(tensor)
        check_float(form)
        check_finite(tensor)
        flat = tensor.detach().reshape(-1)
        # Divided first, so that the sum does not overflow, but for its rounding.
        magnitude = (flat.abs().double() / max(form.count, 1)).sum().clamp(max=torch.finfo(form.scale_dtype).max)
        return Encoded(pack((flat < 0).to(torch.uint8), 1), {"magnitude": magnitude.to(form.scale_dtype)[None]})

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        magnitude = encoded.side["magnitude"]
        if not bool(magnitude.isfinite().all()) or bool((magnitude < 0).any()):
            raise ValueError(f"its magnitude is {float(magnitude[0])}; a finite number of at least 0 is needed.")
        negative = unpack(encoded.value, 1, form.count).to(form.scale_dtype)
        return negative.mul_(-2).add_(1).mul_(magnitude).to(form.dtype).view(form.shape)
