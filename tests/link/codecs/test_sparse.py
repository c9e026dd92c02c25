"""Top-k, random-k, random projection and sign: what is kept, and the error that each states."""

import math

import pytest
import torch
from codec_cases import DRAW, roundtrip, tensors, ulp
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sfl.link.codecs import Chain, Draw, Form, NotFiniteError, RandomK, RandomProjection, Sign, TopK

FRACTIONS = st.floats(0.01, 1.0)
WIDE = (torch.float32, torch.float64)


def squared(tensor):
    return tensor.double().square().sum().item()


def mean_and_squares(codec, tensor, count):
    """Of so many draws: the mean of what arrives, and the mean squared error."""
    found = torch.stack([roundtrip(codec, tensor, Draw(0, "t", (place,))) for place in range(count)])
    return found.mean(0), (found - tensor).square().sum(1)


# Top-k


def test_the_largest_are_kept_by_hand():
    """A quarter of 8 is 2: -5 and 3, at places 2 and 7. Two places of 3 bits are 2 + 7·8 = 58, one byte, as a bit for
    each of 8 elements would be."""
    tensor = torch.tensor([1.0, 0.0, -5.0, 2.0, 0.5, 0.0, -1.0, 3.0]).view(2, 4)
    codec = TopK(fraction=0.25)
    parts = Chain((codec,)).encode(tensor, DRAW)
    assert parts[""].tolist() == [-5.0, 3.0]
    assert parts["0.places"].tolist() == [58]
    assert roundtrip(codec, tensor).tolist() == [[0.0, 0.0, -5.0, 0.0], [0.0, 0.0, 0.0, 3.0]]


def test_of_many_a_bit_for_every_element_takes_less():
    """6 of 8: numbers would take ⌈18/8⌉ = 3 bytes. All but places 1 and 5 (0.0): 255 - 2 - 32 = 221."""
    tensor = torch.tensor([1.0, 0.0, -5.0, 2.0, 0.5, 0.0, -1.0, 3.0])
    parts = Chain((TopK(fraction=0.75),)).encode(tensor, DRAW)
    assert parts["0.places"].tolist() == [221]
    assert torch.equal(roundtrip(TopK(fraction=0.75), tensor), tensor)


@settings(max_examples=50)
@given(tensor=tensors(dtypes=WIDE), fraction=FRACTIONS)
def test_top_k_is_a_contraction(tensor, fraction):
    found = roundtrip(TopK(fraction=fraction), tensor)
    count = tensor.numel()
    kept = min(count, max(1, round(fraction * count)))
    assert squared(found - tensor) <= (1 - kept / max(count, 1)) * squared(tensor) + 1e-9
    assert bool(((found == tensor) | (found == 0)).all())


@pytest.mark.parametrize(
    ("fraction", "places", "message"),
    [
        (0.2, [15 + 15 * 16], "not ascending"),  # the same place twice
        (0.2, [5 + 4 * 16], "not ascending"),
        (0.2, [4 + 10 * 16], "not ascending ones of 10 elements"),  # there is no eleventh
        (0.9, [255, 3], "its places are 10 of 10 elements, not 9"),
        (0.9, [254, 4], "bits behind the last number are not 0"),
    ],
)
def test_spoilt_places_are_refused(fraction, places, message):
    """Ten elements: two places of 4 bits each in one byte, or a bit for each."""
    chain = Chain((TopK(fraction=fraction),))
    parts = chain.encode(torch.arange(10.0), DRAW)
    assert parts["0.places"].numel() == len(places)
    parts["0.places"] = torch.tensor(places, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        chain.decode(parts, Form((10,), torch.float32))


# Random-k


@pytest.mark.slow
def test_random_k_is_unbiased_with_the_variance_it_states():
    """d = 12, k = 3, R = 4000 draws. An element x is 4x with chance 1/4: variance 3x², a mean within 6√(3/R) |x|.

    ‖C(x) - x‖² has the mean (d/k - 1)‖x‖² = 3‖x‖² and lies in [0, 16‖x‖²]: its mean is within 6 · 8/√R ‖x‖².
    """
    tensor = torch.linspace(-2, 3, 12, dtype=torch.float64)
    mean, squares = mean_and_squares(RandomK(fraction=0.25), tensor, 4000)
    assert bool(((mean - tensor).abs() <= 6 * math.sqrt(3 / 4000) * tensor.abs()).all())
    assert abs(squares.mean().item() / squared(tensor) - 3) <= 6 * 8 / math.sqrt(4000)


def test_with_error_feedback_random_k_is_not_scaled():
    """A contraction in the mean: (1 - k/d)‖x‖², of values in [0, ‖x‖²]."""
    tensor = torch.linspace(-2, 3, 12, dtype=torch.float64)
    codec = RandomK(fraction=0.25, error_feedback=True)
    found = roundtrip(codec, tensor)
    assert sorted((found == tensor).tolist()) == [False] * 9 + [True] * 3
    _, squares = mean_and_squares(codec, tensor, 2000)
    assert abs(squares.mean().item() / squared(tensor) - 0.75) <= 6 * 0.5 / math.sqrt(2000)


@settings(max_examples=30)
@given(tensor=tensors(), fraction=FRACTIONS)
def test_random_k_gives_the_receiver_the_places_by_the_seed_alone(tensor, fraction):
    found = roundtrip(RandomK(fraction=fraction), tensor)
    count = tensor.numel()
    kept = min(count, max(1, round(fraction * count)))
    scaled = (tensor.double() * (count / max(kept, 1))).to(tensor.dtype)
    assert bool(((found == 0) | ((found - scaled).abs() <= 2 * ulp(scaled))).all())
    assert int((found != 0).sum()) <= kept


def test_a_value_that_scaling_makes_too_large_is_refused():
    with pytest.raises(ValueError, match="becomes too large for its type when it is multiplied by 10/1"):
        RandomK(fraction=0.1).encode(torch.full((10,), 6e4, dtype=torch.float16), DRAW)


# Random projection


@pytest.mark.slow
def test_the_projection_is_unbiased_with_the_variance_it_states():
    """d = n = 16, k = 4, R = 4000 draws: ‖C(x) - x‖² has the mean (n/k - 1)‖x‖² = 3‖x‖² and lies in [0, 16‖x‖²].

    An element's error is at most 4‖x‖ + |x| and its variance at most 3‖x‖²; six standard deviations.
    """
    tensor = torch.linspace(-2, 3, 16, dtype=torch.float64)
    mean, squares = mean_and_squares(RandomProjection(fraction=0.25), tensor, 4000)
    assert bool(((mean - tensor).abs() <= 6 * math.sqrt(3 * squared(tensor) / 4000)).all())
    assert abs(squares.mean().item() / squared(tensor) - 3) <= 6 * 8 / math.sqrt(4000)


@pytest.mark.slow
def test_where_zeros_fill_up_the_variance_is_within_the_bound():
    """d = 12, n = 16, k = 3: at most (16/3 - 1)‖x‖², each in [0, (16/3)²‖x‖²]."""
    tensor = torch.linspace(-2, 3, 12, dtype=torch.float64)
    _, squares = mean_and_squares(RandomProjection(fraction=0.25), tensor, 2000)
    assert squares.mean().item() / squared(tensor) <= 16 / 3 - 1 + 6 * 14.3 / math.sqrt(2000)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_all_coefficients_give_the_tensor_back(count):
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(roundtrip(RandomProjection(fraction=1.0), tensor), tensor)


def test_coefficients_are_of_one_size_where_elements_are_not():
    """One element of 1024 holds all: every coefficient is 1/√1024 of it."""
    tensor = torch.zeros(1024)
    tensor[5] = 32.0
    value = Chain((RandomProjection(fraction=0.5),)).encode(tensor, DRAW)[""]
    assert value.abs().tolist() == [1.0] * 512


def test_what_projecting_makes_too_large_is_refused():
    with pytest.raises(ValueError, match="too large for their type to be projected"):
        RandomProjection(fraction=0.1).encode(torch.full((64,), 3e38), DRAW)


@pytest.mark.parametrize("codec", [RandomK(fraction=0.5), RandomProjection(fraction=0.5)])
def test_a_seed_below_zero_is_refused(codec):
    chain = Chain((codec,))
    parts = chain.encode(torch.rand(4), DRAW)
    parts["0.seed"] = torch.tensor([-1])
    with pytest.raises(ValueError, match="its seed is -1, below 0"):
        chain.decode(parts, Form((4,), torch.float32))


# Sign


def test_signs_by_hand():
    """Mean magnitude (1 + 2 + 0 + 5)/4 = 2; only the second is below 0."""
    tensor = torch.tensor([1.0, -2.0, 0.0, 5.0])
    parts = Chain((Sign(),)).encode(tensor, DRAW)
    assert parts[""].tolist() == [2]
    assert parts["0.magnitude"].tolist() == [2.0]
    assert roundtrip(Sign(), tensor).tolist() == [2.0, -2.0, 2.0, 2.0]


@settings(max_examples=50)
@given(tensor=tensors(dtypes=(torch.float64,)))
def test_the_error_of_signs_is_what_the_two_norms_say(tensor):
    found = squared(roundtrip(Sign(), tensor) - tensor)
    count = max(tensor.numel(), 1)
    expected = squared(tensor) - tensor.abs().sum().item() ** 2 / count
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * squared(tensor))


def test_the_mean_magnitude_of_the_largest_numbers_is_finite():
    for dtype in (torch.float16, torch.float32, torch.float64):
        tensor = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
        assert bool(roundtrip(Sign(), tensor).isfinite().all())


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_spoilt_magnitude_is_refused(wrong):
    chain = Chain((Sign(),))
    parts = chain.encode(torch.rand(4), DRAW)
    parts["0.magnitude"] = torch.tensor([wrong])
    with pytest.raises(ValueError, match="its magnitude is"):
        chain.decode(parts, Form((4,), torch.float32))


# All


@pytest.mark.parametrize("kind", [TopK, RandomK, RandomProjection])
@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, math.nan, math.inf, True, "0.1", None])
def test_a_fraction_out_of_range_is_refused(kind, fraction):
    with pytest.raises(ValueError, match=r"fraction=.* is not accepted: give a number above 0 and at most 1"):
        kind(fraction=fraction)


@pytest.mark.parametrize("kind", [TopK, RandomK])
def test_error_feedback_is_true_or_false(kind):
    with pytest.raises(ValueError, match="error_feedback=1 is not accepted: give true or false"):
        kind(fraction=0.5, error_feedback=1)


@pytest.mark.parametrize("codec", [TopK(fraction=0.5), RandomK(fraction=0.5), RandomProjection(fraction=0.5), Sign()])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_encoded(codec, wrong):
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        codec.encode(torch.tensor([1.0, wrong, 2.0, 3.0]), DRAW)


@pytest.mark.parametrize("codec", [TopK(fraction=0.5), RandomK(fraction=0.5)])
def test_values_that_are_not_finite_are_not_decoded(codec):
    chain = Chain((codec,))
    parts = chain.encode(torch.rand(4), DRAW)
    parts[""][0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        chain.decode(parts, Form((4,), torch.float32))
