"""Tensors and chains of codecs, drawn; and their payload by formulas of the tests' own."""

import math

import torch
from hypothesis import strategies as st

from lightning_sfl.link.codecs import (
    BFloat16,
    Chain,
    Draw,
    Float16,
    Form,
    NearestUniform,
    RandomK,
    RandomProjection,
    Sign,
    StochasticUniform,
    TopK,
)

DTYPES = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
DRAW = Draw(3, "test", (1, 2))


@st.composite
def tensors(draw, *, dtypes=tuple(DTYPES), min_dims=0):
    """Shapes with 0 to 3 dimensions, empty ones too; normal values, constants, one sign, all zeros; some transposed."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 9), min_size=min_dims, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    change = draw(st.sampled_from(["none", "constant", "positive", "zero", "far"]))
    if change == "constant":
        values = torch.full(shape, draw(st.floats(-9, 9)), dtype=torch.float64)
    values = {"positive": values.abs(), "zero": values * 0, "far": values + 100}.get(change, values)
    tensor = values.to(dtype)
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


FRACTIONS = st.floats(0.01, 1.0)
CARRYING = st.one_of(
    st.builds(TopK, fraction=FRACTIONS, error_feedback=st.booleans()),
    st.builds(RandomK, fraction=FRACTIONS, error_feedback=st.booleans()),
    st.builds(RandomProjection, fraction=FRACTIONS),
    st.just(BFloat16()),
)
ENDING = st.one_of(
    st.builds(StochasticUniform, bits=st.integers(1, 16)),
    st.builds(NearestUniform, bits=st.integers(1, 16)),
    st.just(Sign()),
    st.just(Float16()),
)
CHAINS = st.builds(
    lambda carrying, ending: Chain((*carrying, *ending)),
    st.lists(CARRYING, max_size=2),
    st.lists(ENDING, max_size=1),
)


def expected_bit(chain: Chain, count: int, bit: int) -> int:
    """Payload by the formulas of the docstrings, written down once more; `bit` is what an element takes."""
    side = 0
    for codec in chain.codecs:
        kept = min(count, max(1, round(codec.fraction * count))) if hasattr(codec, "fraction") else count
        scale = 64 if bit == 64 else 32
        match codec:
            case TopK():
                places = math.ceil(kept * (math.ceil(math.log2(count)) if count else 0) / 8)
                side += 8 * min(places, math.ceil(count / 8))
                count = kept
            case RandomK():
                side, count = side + 64, kept
            case RandomProjection():
                side, count, bit = side + 64, kept, scale
            case BFloat16() | Float16():
                bit = 16
            case Sign():
                return side + scale + 8 * math.ceil(count / 8)
            case StochasticUniform() | NearestUniform():
                return side + 2 * scale + 8 * math.ceil(count * codec.bits / 8)
    return side + count * bit


def roundtrip(codec, tensor, draw=DRAW):
    chain = codec if isinstance(codec, Chain) else Chain((codec,))
    return chain.decode(chain.encode(tensor, draw), Form.of(tensor))


def ulp(tensor):
    """The spacing of numbers of the tensor's type at its largest magnitude."""
    largest = tensor.abs().max().double().item() if tensor.numel() else 0.0
    kind = torch.finfo(tensor.dtype)
    return max(largest * kind.eps, kind.smallest_normal * kind.eps)
