import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smashed_cases import mixing_3x3, noise_images, orthogonal_1x1
from torch import nn
from torch.nn.functional import interpolate

from attacks.attacker import UnavailableError
from attacks.images import ImageSpace
from attacks.smashed.linear import LeastSquares, is_affine
from attacks.smashed.victim import forward_of
from lightning_sfl.link.codecs import Chain, Draw, Form, NearestUniform, StochasticUniform

SPACE = ImageSpace(shape_CHW=(3, 8, 8), low=(-1.0,), high=(1.0,))


def through(codec, tensor):
    chain = Chain.of((codec,))
    return chain.decode(chain.encode(tensor, Draw(0, "test")), Form.of(tensor))


def embedding(patch: int = 4, width: int = 96) -> nn.Conv2d:
    """Patches of 3·4·4 = 48 numbers become 96: an affine map of full column rank."""
    torch.manual_seed(0)
    return nn.Conv2d(3, width, patch, stride=patch).requires_grad_(False)


def attacked(front, target, **settings):
    return LeastSquares(**settings).reconstruct(target, forward_of(front), SPACE, len(target[0]))


@pytest.mark.parametrize("most_entries", [0, 1 << 22])  # conjugate gradients; written out
@pytest.mark.parametrize(
    "front",
    [
        orthogonal_1x1(3),
        mixing_3x3(3),
        embedding(),
        nn.Sequential(embedding(), nn.Flatten(), nn.BatchNorm1d(384).eval()),
    ],
)
def test_an_affine_map_of_full_column_rank_is_inverted_to_numerical_precision(front, most_entries):
    """x = A⁺(z − b): nothing but rounding is between them, 1e-7 relative times a condition number of at most 30."""
    images = noise_images(3)
    target = forward_of(front)(SPACE.to_input(images))

    found = attacked(front, target, most_entries=most_entries)

    assert found.unit_BCHW == pytest.approx(images, abs=1e-5)
    assert found.fit < 1e-10


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 8), st.integers(1, 3), st.integers(0, 100))
def test_any_dense_layer_that_is_no_narrower_than_the_image_is_inverted(channels, size, wider, records, seed):
    """In 64 bits the error is 1e-16 times the condition number, which is below 1e6 for every matrix drawn here."""
    unknowns = channels * size * size
    draw = torch.Generator().manual_seed(seed)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(unknowns, unknowns + wider, dtype=torch.float64)).requires_grad_(
        False
    )
    layer[1].weight.data = torch.randn(unknowns + wider, unknowns, generator=draw, dtype=torch.float64)
    space = ImageSpace(shape_CHW=(channels, size, size))
    images = space.random(records, draw, torch.float64)

    found = LeastSquares().reconstruct(forward_of(layer)(images), forward_of(layer), space, records)

    assert found.unit_BCHW == pytest.approx(images, abs=1e-8)


def test_both_ways_give_the_same_where_numbers_are_lost():
    """192 unknowns, 48 numbers: both stay grey where nothing was said, the shortest way from grey to the solutions."""
    narrow = nn.Conv2d(3, 3, 2, stride=2).requires_grad_(False)
    target = forward_of(narrow)(SPACE.to_input(0.5 + 0.1 * (noise_images(2) - 0.5)))

    by_steps, written_out = (attacked(narrow, target, most_entries=entries).unit_BCHW for entries in (0, 1 << 22))

    assert by_steps == pytest.approx(written_out, abs=1e-5)
    assert not torch.equal(written_out, torch.full_like(written_out, 0.5))


def test_quantised_to_8_bits_the_images_come_back_and_to_2_they_do_not():
    """Twice as many numbers as unknowns. Grey is 1/√12 from uniform noise, 10.8 dB.

    A step of nearest rounding to b bits over a range R is R/(2^b − 1), its error R/(2^b − 1)/√12 in every number: at 8
    bits about 1/880 of the range, at 2 bits about a tenth of it, and stochastic rounding has √2 to 2 times that.
    """
    images = noise_images(4)
    smashed = forward_of(embedding())(SPACE.to_input(images))[0]

    def mean_error(codec):
        return float((attacked(embedding(), (through(codec, smashed),)).unit_BCHW - images).square().mean().sqrt())

    for codec in (NearestUniform, StochasticUniform):
        assert mean_error(codec(bits=8)) < 0.03
        assert mean_error(codec(bits=2)) > 0.15


@pytest.mark.parametrize(
    "front",
    [nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Sigmoid()],
)
def test_what_is_not_affine_is_found_out_and_refused(front):
    front = front.requires_grad_(False).train()
    images = SPACE.to_input(noise_images(3))

    assert not is_affine(forward_of(front), SPACE, 3)
    with pytest.raises(ValueError, match="not affine"):
        attacked(front, forward_of(front)(images))


def test_an_offset_far_outside_the_box_does_not_hide_a_relu():
    """With a bias of 3, inputs in the box never reach the bend of the ReLU; combinations outside it do."""
    front = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).requires_grad_(False)
    front[0].weight.data = 0.9 * torch.eye(3)[:, :, None, None]
    front[0].bias.data.fill_(1.5)

    assert not is_affine(forward_of(front), SPACE, 2)


@pytest.mark.parametrize("most_entries", [0, 1 << 22])  # conjugate gradients; written out
def test_images_that_were_enlarged_come_back_from_fewer_numbers_than_pixels(most_entries):
    """3·8·8 = 192 pixels, enlarged from 3·4·4 = 48, of which 4 patches make 4·20 = 80 numbers: too few for the former,
    enough for the latter. To the model goes a range of -1 to 1, which the enlarging goes through unchanged."""
    draw = torch.Generator().manual_seed(0)
    small = SPACE.to_input(torch.rand(3, 3, 4, 4, generator=draw))
    images = (interpolate(small, size=(8, 8), mode="bilinear", align_corners=False) + 1) / 2
    front = embedding(width=20)
    target = forward_of(front)(SPACE.to_input(images))

    known = attacked(front, target, enlarged_from=(4, 4), most_entries=most_entries)
    unknown = attacked(front, target, most_entries=most_entries)

    assert known.unit_BCHW == pytest.approx(images, abs=1e-4)
    assert (unknown.unit_BCHW - images).abs().max() > 0.1


def test_images_cannot_have_been_enlarged_from_larger_ones():
    with pytest.raises(UnavailableError, match=r"enlarged_from=\(4, 9\) is larger than the images, .* \(8, 8\)"):
        attacked(embedding(), forward_of(embedding())(noise_images(2)), enlarged_from=(4, 9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_in_16_bits_is_still_seen_as_affine(dtype):
    """Rounding of 2^-8 in every number of a bfloat16 is not taken for a bend; the images come back up to it."""
    front = orthogonal_1x1(3).to(dtype)
    images = noise_images(2)

    found = attacked(front, forward_of(front)(SPACE.to_input(images)))

    assert found.unit_BCHW.dtype == torch.float32
    assert found.unit_BCHW == pytest.approx(images, abs=0.05)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_smashed_data_that_carry_nothing_leave_grey_and_no_fit(value):
    found = attacked(orthogonal_1x1(3), (torch.full((2, 3, 8, 8), value),))

    assert torch.equal(found.unit_BCHW, torch.full((2, 3, 8, 8), 0.5))
    assert found.fit == 1


@pytest.mark.parametrize(
    ("argument", "value"), [("iterations", 0), ("most_entries", -1), ("enlarged_from", (0, 4)), ("enlarged_from", (4,))]
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=re.escape(f"{argument}={value}")):
        LeastSquares(**{argument: value})


def test_the_budget_says_what_is_spent():
    assert dataclasses.replace(LeastSquares(), iterations=7).budget.endswith("7 steps of conjugate gradients")
