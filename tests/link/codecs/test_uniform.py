"""The uniform quantisers: levels, rounding, and every odd range."""

import itertools
import math

import pytest
import torch
from codec_cases import DRAW, DTYPES, roundtrip, tensors, ulp
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sfl.link.codecs import Chain, Draw, Form, NearestUniform, NotFiniteError, StochasticUniform

BOTH = pytest.mark.parametrize("kind", [StochasticUniform, NearestUniform])


def test_levels_by_hand():
    """Two bits from 0 to 3: the levels are 0, 1, 2, 3; of 0, 0.4, 1.6, 3 the nearest are 0, 0, 2, 3.

    Packed: 0 + 0·4 + 2·16 + 3·64 = 224.
    """
    tensor = torch.tensor([0.0, 0.4, 1.6, 3.0])
    parts = Chain((NearestUniform(bits=2),)).encode(tensor, DRAW)
    assert parts[""].tolist() == [224]
    assert parts["0.range"].tolist() == [[0.0], [3.0]]
    assert roundtrip(NearestUniform(bits=2), tensor).tolist() == [0.0, 0.0, 2.0, 3.0]


def test_every_channel_has_levels_of_its_own():
    """One bit: each channel's least and largest value. Per tensor, the levels are -4 and 8."""
    tensor = torch.tensor([[[1.0, 8.0], [0.0, -4.0]], [[2.0, 1.0], [-3.0, -1.0]]])
    found = roundtrip(NearestUniform(bits=1, channel_dim=1), tensor)
    assert found.tolist() == [[[1.0, 8.0], [0.0, -4.0]], [[1.0, 1.0], [-4.0, 0.0]]]
    assert torch.equal(found, roundtrip(NearestUniform(bits=1, channel_dim=-2), tensor))
    assert roundtrip(NearestUniform(bits=1), tensor).unique().tolist() == [-4.0, 8.0]


@settings(max_examples=60)
@given(tensor=tensors(), bits=st.integers(1, 16), channel=st.booleans())
@BOTH
def test_the_error_is_within_a_step_or_half_a_step(kind, tensor, bits, channel):
    """Beside the step, one spacing of the tensor's type for the rounding of the result, and 2^-13 of a step."""
    dim = 0 if channel and tensor.ndim else None
    found = roundtrip(kind(bits=bits, channel_dim=dim), tensor)
    assert found.shape == tensor.shape
    assert found.dtype == tensor.dtype
    if not tensor.numel():
        return
    wide = tensor.double()
    rows = wide.reshape(1, -1) if dim is None else wide.reshape(tensor.shape[0], -1)
    step = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    error = (found.double() - wide).abs().reshape(rows.shape).amax(1)
    share = 1 if kind is StochasticUniform else 0.5
    assert bool((error <= (share + 2**-13) * step + 2 * ulp(tensor)).all())


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_rounding_at_random_is_unbiased_and_its_error_within_the_bound(bits):
    """R = 400 draws of N = 1000 numbers. The error of one is at most a step s, of variance at most s²/4.

    The mean over all R·N errors has a standard deviation of at most s / (2 √(R·N)); six of them, and 2^-13 s of bias.
    The mean of ‖Q(z) - z‖², a sum of N terms of at most s²/4 in expectation, stays below N s²/4, whatever is drawn for
    each number: six standard deviations of a mean of R·N numbers of at most s² above it.
    """
    tensor = torch.linspace(-1.3, 2.1, 1000)
    step = (tensor[-1] - tensor[0]).item() / (2**bits - 1)
    errors = torch.stack(
        [roundtrip(StochasticUniform(bits=bits), tensor, Draw(0, "t", (place,))) - tensor for place in range(400)]
    ).double()
    rounding = 2 * ulp(tensor)
    assert abs(errors.mean()) <= 6 * step / (2 * math.sqrt(errors.numel())) + 2**-13 * step + rounding
    per_number = errors.mean(0).abs().max()  # over 1000 numbers, 400 draws each
    assert per_number <= 6 * step / (2 * math.sqrt(400)) + 2**-13 * step + rounding
    squares = errors.square().mean()
    assert squares <= step**2 / 4 + 6 * step**2 / math.sqrt(errors.numel()) + rounding**2


def test_chances_are_those_of_the_place_between_two_levels():
    """One bit from 0 to 1, and 40000 numbers of 0.3: k of them become 1, k binomial; six standard deviations."""
    tensor = torch.full((40002,), 0.3)
    tensor[0], tensor[1] = 0.0, 1.0
    found = roundtrip(StochasticUniform(bits=1), tensor)[2:]
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert abs(found.mean().item() - 0.3) <= 6 * math.sqrt(0.3 * 0.7 / 40000)


@BOTH
def test_the_error_falls_fourfold_per_bit(kind):
    """E‖Q(z) - z‖² is a multiple of (2^bits - 1)^-2. From b to b + 1 bits, 4 (1 + 1/(2^(b+1) - 2))².

    Exactly so where places between levels are evenly spread, as N = 30000 uniform numbers have them; the mean of N
    squared errors in [0, s²] is off by no more than 6/√N of s², which is at most 24/√N of the mean of s²/6 or s²/12.
    """
    tensor = torch.rand(30000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensor[0], tensor[1] = 0.0, 1.0
    squares = [(roundtrip(kind(bits=bits), tensor) - tensor).square().mean().item() for bits in range(3, 14)]
    for bits, (now, then) in enumerate(itertools.pairwise(squares), start=3):
        expected = ((2 ** (bits + 1) - 1) / (2**bits - 1)) ** 2
        assert now / then == pytest.approx(expected, rel=48 / math.sqrt(30000))
        assert expected == pytest.approx(4, rel=0.2)


@BOTH
@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_tensors_decode_exactly(kind, bits, dtype):
    kinds = torch.finfo(dtype)
    for value in (0.0, -1.7, kinds.max, kinds.min, kinds.smallest_normal, kinds.smallest_normal * kinds.eps):
        tensor = torch.full((5,), value, dtype=dtype)
        assert torch.equal(roundtrip(kind(bits=bits), tensor), tensor)


@BOTH
@pytest.mark.parametrize("bits", [1, 8, 13])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ["largest", "subnormal", "both"])
def test_ranges_that_overflow_or_vanish(kind, bits, dtype, size):
    """From the least number of the type to the largest the difference is infinite; subnormal steps are rounded."""
    limits = torch.finfo(dtype)
    place = torch.linspace(-1, 1, 33, dtype=torch.float64)
    largest = limits.max if size != "subnormal" else limits.smallest_normal / 2
    tensor = (place * largest).to(dtype)
    if size == "both":
        tensor[3:6] = limits.smallest_normal * limits.eps
    found = roundtrip(kind(bits=bits), tensor)
    assert bool(found.isfinite().all())
    least, most = tensor.double().min(), tensor.double().max()
    step = (most / 2 - least / 2) / (2**bits - 1) * 2 if bits > 1 else math.inf
    spacing = limits.smallest_normal * limits.eps if size == "subnormal" else largest * limits.eps
    share = 1.001 if kind is StochasticUniform else 0.501
    assert bool(((found.double() / 2 - tensor.double() / 2).abs() <= share * step / 2 + spacing).all())
    assert bool((found.double() <= most).all())
    if bits > 1:
        assert torch.equal(found[[0, -1]], tensor[[0, -1]])


def test_a_channel_out_of_the_ordinary_does_not_spoil_the_others():
    tensor = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1e-44, 2e-44, 3e-44], [-3e38, -1e38, 1e38, 3e38]])
    found = roundtrip(NearestUniform(bits=2, channel_dim=0), tensor)
    torch.testing.assert_close(found, tensor, rtol=1e-6, atol=2e-45)


def test_the_draw_alone_decides():
    """Bit for bit, and the global generators are not touched; another draw rounds otherwise."""
    tensor = torch.randn(50, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    one, again = (roundtrip(StochasticUniform(bits=3), tensor, Draw(1, "a", (4,))) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(before, torch.get_rng_state())
    for other in (Draw(2, "a", (4,)), Draw(1, "b", (4,)), Draw(1, "a", (5,))):
        assert not torch.equal(one, roundtrip(StochasticUniform(bits=3), tensor, other))


@BOTH
@pytest.mark.parametrize("bits", [0, 17, -1, True, 8.5, 8.0, "8", None])
def test_bits_out_of_range_are_refused(kind, bits):
    with pytest.raises(ValueError, match=rf"bits={bits!r} is not accepted: give an integer from 1 to 16"):
        kind(bits=bits)


@pytest.mark.parametrize("dim", [True, 1.0, "0"])
def test_a_channel_dimension_is_an_integer(dim):
    with pytest.raises(ValueError, match=rf"channel_dim={dim!r} is not accepted: give an integer, or None"):
        NearestUniform(bits=8, channel_dim=dim)


@pytest.mark.parametrize(("dim", "shape"), [(0, ()), (2, (3, 4)), (-3, (3, 4))])
def test_a_channel_dimension_that_a_tensor_does_not_have_is_refused(dim, shape):
    with pytest.raises(ValueError, match=rf"channel_dim={dim} does not go with a tensor of shape"):
        NearestUniform(bits=8, channel_dim=dim).encode(torch.zeros(shape), DRAW)


@BOTH
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [None, 0])
def test_what_is_not_finite_is_never_encoded(kind, wrong, dim):
    tensor = torch.zeros(3, 2)
    tensor[1, 1] = wrong
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        kind(bits=8, channel_dim=dim).encode(tensor, DRAW)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(0.0, math.inf, "not finite"), (math.nan, 0.0, "not finite"), (1.0, 0.5, "begins above its end")],
)
def test_a_spoilt_range_is_refused(low, high, message):
    chain = Chain((NearestUniform(bits=8),))
    parts = chain.encode(torch.rand(4), DRAW)
    parts["0.range"] = torch.tensor([[low], [high]])
    with pytest.raises(ValueError, match=message):
        chain.decode(parts, Form((4,), torch.float32))


@pytest.mark.parametrize("count", [2**16 + 5, 3 * 2**16])
def test_long_tensors_are_rounded_piece_by_piece(count):
    """Every piece draws for itself: of the same numbers in each, some are rounded otherwise."""
    tensor = (torch.arange(count) % 2**16) / 2**16
    found = roundtrip(StochasticUniform(bits=5), tensor)
    assert bool(((found - tensor).abs() <= 1.001 / 31).all())
    assert found.unique().numel() == 32
    assert count < 2**17 or not torch.equal(found[: 2**16], found[2**16 : 2**17])
