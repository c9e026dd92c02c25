"""Chains: payload by formula, forms, text, and what cannot follow what."""

import pytest
import torch
from codec_cases import CHAINS, DRAW, DTYPES, expected_bit, roundtrip, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sfl.link.codecs import (
    BFloat16,
    Chain,
    Codec,
    Draw,
    Float16,
    Form,
    NearestUniform,
    RandomProjection,
    Sign,
    StochasticUniform,
    TopK,
)


@settings(max_examples=150)
@given(tensor=tensors(), chain=CHAINS)
def test_law_5_the_payload_is_what_the_formula_says(tensor, chain):
    """Every part has the form it was to have, and all parts together the bits of the formulas."""
    form = Form.of(tensor)
    parts = chain.encode(tensor, DRAW)
    assert {name: Form.of(part) for name, part in parts.items()} == chain.part_forms(form)
    bit = 8 * sum(part.nbytes for part in parts.values())
    assert chain.payload_bit(form) == bit == expected_bit(chain, form.count, DTYPES[form.dtype])
    found = chain.decode(parts, form)
    assert Form.of(found) == form
    assert bool(found.isfinite().all())


def test_the_formulas_by_hand():
    """1000 float32: 8 bits are 8000 + 64. 100 of them, their places of 10 bits in 1000 bits (as many as a bit for each
    of the 1000), and 4 bits each: 1000 + 400 + 64. Half of them projected and signed: 64 + 500 (63 bytes) + 32.
    """
    form = Form((10, 100), torch.float32)
    assert Chain((StochasticUniform(bits=8),)).payload_bit(form) == 8064
    assert Chain((TopK(fraction=0.1), StochasticUniform(bits=4))).payload_bit(form) == 1464
    assert Chain((RandomProjection(fraction=0.5), Sign())).payload_bit(form) == 64 + 504 + 32
    assert Chain((NearestUniform(bits=3, channel_dim=0),)).payload_bit(form) == 3000 + 10 * 64
    assert Chain((BFloat16(),)).payload_bit(form) == 16000
    assert Chain().payload_bit(form) == 32000


def test_codecs_work_from_left_to_right():
    """The two largest of four, then one bit: their least and their largest value; the others are 0."""
    chain = Chain((TopK(fraction=0.5), NearestUniform(bits=1)))
    assert roundtrip(chain, torch.tensor([1.0, -7.0, 0.5, 4.0])).tolist() == [0.0, -7.0, 0.0, 4.0]


@pytest.mark.parametrize("first", [StochasticUniform(bits=8), NearestUniform(bits=8), Sign()])
def test_nothing_follows_packed_integers(first):
    with pytest.raises(ValueError, match=r"ends in packed integers, which Float16\(\) cannot encode: put it last"):
        Chain((first, Float16()))


class Unknown(Codec):
    """A receiver would not know it."""

    encoded_form = encode = decode = None


@pytest.mark.parametrize("wrong", [8, "TopK", TopK, Unknown()])
def test_something_else_is_no_codec(wrong):
    with pytest.raises(ValueError, match="is not accepted as a codec: give StochasticUniform"):
        Chain((wrong,))


@pytest.mark.parametrize("wrong", ["TopK(fraction=0.1)", TopK(fraction=0.1), 3, None])
def test_one_codec_is_no_sequence(wrong):
    with pytest.raises(ValueError, match="is not accepted as codecs: give a sequence"):
        Chain.of(wrong)


@given(chain=CHAINS)
def test_a_chain_is_read_from_its_text(chain):
    assert Chain.parse(str(chain)) == chain


def test_the_text_is_short():
    chain = Chain((TopK(fraction=0.1, error_feedback=True), StochasticUniform(bits=8)))
    assert str(chain) == "TopK(fraction=0.1, error_feedback=True), StochasticUniform(bits=8)"
    assert str(Chain((NearestUniform(bits=4, channel_dim=1),))) == "NearestUniform(bits=4, channel_dim=1)"
    assert str(Chain()) == ""


@pytest.mark.parametrize(
    "text",
    [
        *("Gzip()", "TopK", "TopK(0.1)", "TopK(fraction=2)", "Sign(", "Sign(), Sign()", "Sign()] + [Sign()"),
        *("Sign(**{})", "__import__('os')", "TopK(fraction=open('x'))", "codecs.Sign()", "Sign(bits=1)"),
    ],
)
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match="are not known here"):
        Chain.parse(text)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64])
@given(chain=CHAINS)
def test_integers_are_refused(dtype, chain):
    if chain.codecs:
        with pytest.raises(ValueError, match=r"a codec does not take a tensor of type .*; accepted are float16"):
            chain.encode(torch.zeros(3, dtype=dtype), DRAW)


@settings(max_examples=50)
@given(chain=CHAINS, tensor=tensors(), data=st.data())
def test_parts_of_another_form_are_refused(chain, tensor, data):
    form = Form.of(tensor)
    parts = chain.encode(tensor, DRAW)
    name = data.draw(st.sampled_from(sorted(parts)))
    part = parts.pop(name)
    with pytest.raises(ValueError, match=rf"part '{name}' must be .* it is missing"):
        chain.decode(parts, form)
    for wrong in (
        part.reshape(-1, 1, 1, 1, 1),
        part.to(torch.int16),
        torch.cat([part.reshape(-1)] * 2 + [part.reshape(-1)[:0]]),
    ):
        if Form.of(wrong) != Form.of(part):
            with pytest.raises(ValueError, match=rf"part '{name}' must be"):
                chain.decode({**parts, name: wrong}, form)


@given(chain=CHAINS, tensor=tensors())
def test_encoding_reads_the_draw_alone_and_changes_nothing(chain, tensor):
    before, state = tensor.clone(), torch.get_rng_state()
    one, again = chain.encode(tensor, DRAW), chain.encode(tensor, Draw(3, "test", (1, 2)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    form = Form.of(tensor)
    assert torch.equal(chain.decode(one, form), chain.decode(again, form))
    assert torch.equal(tensor, before)
    assert torch.equal(state, torch.get_rng_state())


def test_other_bits_are_those_of_the_quantiser():
    chain = Chain((TopK(fraction=0.5), StochasticUniform(bits=8, channel_dim=0)))
    assert chain.has_bits
    assert chain.with_bits(3) == Chain((TopK(fraction=0.5), StochasticUniform(bits=3, channel_dim=0)))
    assert chain.with_bits(None) == Chain((TopK(fraction=0.5),))
    assert not Chain((Sign(),)).has_bits
