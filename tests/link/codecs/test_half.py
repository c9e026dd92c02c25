"""Numbers in 16 bits."""

import math

import pytest
import torch
from codec_cases import DRAW, DTYPES, roundtrip, tensors
from hypothesis import given, settings

from lightning_sfl.link.codecs import BFloat16, Chain, Float16, Form, NotFiniteError

BOTH = pytest.mark.parametrize("kind", [Float16, BFloat16])


@settings(max_examples=50)
@given(tensor=tensors())
def test_the_error_is_as_stated(tensor):
    for codec, relative, absolute in ((Float16(), 2**-11, 2**-25), (BFloat16(), 2**-8, 2**-134)):
        found = roundtrip(codec, tensor)
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        # Back in the tensor's own type it may be rounded once more.
        again = torch.finfo(tensor.dtype).eps / 2 if tensor.dtype.itemsize == 2 else 2**-24
        bound = torch.clamp((relative + again) * tensor.double().abs(), min=absolute)
        assert bool(((found.double() - tensor.double()).abs() <= bound).all())


@BOTH
def test_subnormal_numbers_are_rounded_to_the_nearest(kind):
    spacing = 2.0**-24 if kind is Float16 else 2.0**-133
    tensor = torch.tensor([0.4, 0.6, 1.4, -2.6], dtype=torch.float64) * spacing
    assert (roundtrip(kind(), tensor) / spacing).tolist() == [0.0, 1.0, 1.0, -3.0]


@pytest.mark.parametrize("value", [65520.0, -1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_half_precision_cannot_hold_is_an_error_and_not_infinite(value, dtype):
    with pytest.raises(ValueError, match="Float16 holds numbers up to 65504, and one of its values is larger"):
        Float16().encode(torch.tensor([1.0, value], dtype=dtype), DRAW)


def test_what_bfloat16_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match="BFloat16 holds numbers up to"):
        BFloat16().encode(torch.tensor([torch.finfo(torch.float32).max]), DRAW)


@BOTH
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_neither_encoded_nor_decoded(kind, wrong):
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        kind().encode(torch.tensor([wrong]), DRAW)
    chain = Chain((kind(),))
    parts = chain.encode(torch.rand(2), DRAW)
    parts[""][1] = wrong
    with pytest.raises(ValueError, match="NaN or infinite"):
        chain.decode(parts, Form((2,), torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_the_type_itself_are_kept(dtype):
    tensor = torch.tensor([1.0, -0.5, 0.0], dtype=dtype)
    assert torch.equal(roundtrip(Float16(), tensor), tensor)
    assert torch.equal(roundtrip(BFloat16(), tensor), tensor)
