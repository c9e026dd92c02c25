"""The largest elements alone."""

import dataclasses

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
from lightning_sfl.link.codecs.packing import pack, packed_byte, unpack


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK(Codec):
    """Sends the k of d elements that are largest in magnitude, and where they stand; the others decode to 0.

    k is the nearest integer to fraction · d, at least 1. A contraction, and biased: ‖C(x) - x‖² ≤ (1 - k/d) ‖x‖² (Stich
    et al. 2018, "Sparsified SGD with memory", with the memory that makes up for what is left out).

    Payload: k values of the tensor's type, and their places in whichever takes less: ⌈k · ⌈log2 d⌉ / 8⌉ bytes of
    numbers, or ⌈d / 8⌉ bytes with a bit for every element.

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
        kept = part_of(self.fraction, form.count)
        place_byte = min(packed_byte(kept, _place_bit(form.count)), packed_byte(form.count, 1))
        return EncodedForm(Form((kept,), form.dtype), {"places": Form((place_byte,), torch.uint8)})

    @override
    def encode(self, tensor: Tensor, draw: Draw) -> Encoded:
        form = Form.of(tensor)
        kept = self.encoded_form(form).value.count
        check_finite(tensor)
        flat = tensor.detach().reshape(-1)
        places = flat.abs().topk(kept, sorted=False).indices.sort().values
        if _sends_numbers(kept, form.count):
            packed = pack(places, _place_bit(form.count))
        else:
            mask = torch.zeros(form.count, dtype=torch.uint8, device=flat.device)
            mask[places] = 1
            packed = pack(mask, 1)
        return Encoded(flat[places], {"places": packed})

    @override
    def decode(self, encoded: Encoded, form: Form) -> Tensor:
        kept = encoded.value.numel()
        if _sends_numbers(kept, form.count):
            places = unpack(encoded.side["places"], _place_bit(form.count), kept).to(torch.int64)
            if kept and not (int(places[-1]) < form.count and bool((places[1:] > places[:-1]).all())):
                raise ValueError(f"its places are not ascending ones of {form.count} elements.")
        else:
            places = unpack(encoded.side["places"], 1, form.count).nonzero()[:, 0]
            if len(places) != kept:
                raise ValueError(f"its places are {len(places)} of {form.count} elements, not {kept}.")
        check_finite(encoded.value)
        found = torch.zeros(form.count, dtype=form.dtype, device=encoded.value.device)
        found[places] = encoded.value
        return found.view(form.shape)


def check_error_feedback(value: object) -> None:
    """Raise a ValueError unless this is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"error_feedback={value!r} is not accepted: give true or false.")


def _place_bit(count: int) -> int:
    """Bits of a number below ``count``."""
    return max(count - 1, 0).bit_length()


def _sends_numbers(kept: int, count: int) -> bool:
    return packed_byte(kept, _place_bit(count)) <= packed_byte(count, 1)
