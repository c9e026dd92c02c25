import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_cases import linear, noise_images, probed_half
from torch import nn

from attacks.images import ImageSpace
from attacks.metrics import psnr_db
from attacks.scalars.inverting import InvertingScalars
from attacks.scalars.prior import Prior

ATTACK = InvertingScalars()


def rebuilt_db(half, images, probes, auxiliary=None):
    _, channels, height, width = images.shape
    space = ImageSpace(shape_CHW=(channels, height, width))
    probed, sent = probed_half(half, images, probes)
    found = ATTACK.reconstruct(sent, probed, Prior.of(auxiliary, space), space)
    return psnr_db(found.unit_BCHW, images, 1.0), found


@settings(max_examples=15, deadline=None)
@given(records=st.integers(1, 3), channels=st.integers(1, 2), size=st.integers(2, 4), features=st.integers(2, 8))
def test_as_many_scalars_as_pixels_give_a_linear_half_away_exactly(records, channels, size, features):
    """Law 7. With f(x) = Wx + c, W and c moved by μU and μv: s = μ Σ_b λ_bᵀ(U x_b + v), which is linear in the B·n
    pixels. P ≥ B·n random directions give P independent equations, if λ has B independent rows: B ≤ features.
    """
    features = max(features, records)
    pixels = records * channels * size**2
    images = noise_images(records, channels, size)

    found_db, found = rebuilt_db(linear(channels * size**2, features), images, pixels + 8)

    assert float(found_db.min()) > 80
    assert found.fit < 1e-12


def test_a_convolution_is_linear_in_its_input_too():
    """As many equations as pixels, though the convolution has only 4·9 + 4 weights and g no more numbers: 40 equations
    for 36 pixels, each a correlation of the image with λ."""
    torch.manual_seed(0)

    found_db, _ = rebuilt_db(nn.Conv2d(1, 4, 3, padding=1), noise_images(1, 1, 6), 80)

    assert float(found_db.min()) > 60


def test_more_directions_than_weights_say_nothing_new():
    """The gradient of a convolution of 1 filter of 1x1 without bias is one number, ⟨λ, x⟩: s_p = μ u_p ⟨λ, x⟩ for all
    p, and 200 scalars leave 35 of 36 pixels open."""
    found_db, _ = rebuilt_db(nn.Conv2d(1, 1, 1, bias=False), noise_images(1, 1, 6), 200)

    assert float(found_db.max()) < 20


def test_steps_follow_a_half_that_is_not_linear():
    """One linear step from grey does not find it; its repetition does."""
    torch.manual_seed(0)
    half = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8))
    images = noise_images(1, 1, 6)

    found_db, found = rebuilt_db(half, images, 120)
    probed, sent = probed_half(half, images, 120)
    space = ImageSpace(shape_CHW=(1, 6, 6))
    one_step = InvertingScalars(iterations=1).reconstruct(sent, probed, Prior.of(None, space), space)

    assert float(found_db.min()) > 60
    assert found.iterations > 1
    assert float(psnr_db(one_step.unit_BCHW, images, 1.0)) < float(found_db.min()) - 20


def test_five_scalars_leave_the_mean_of_auxiliary_images():
    """5 equations for 64 pixels: the others stay as the prior has them. Of independent pixels with variance 1/12, 5 of
    64 dimensions of error are taken away: 10·log10(64 / 59) = 0.35 dB on average.
    """
    images = noise_images(40, 1, 8)
    mean = images[8:].mean(0, keepdim=True)
    gains = []
    for place in range(8):
        found_db, _ = rebuilt_db(linear(64), images[place : place + 1], 5, images[8:])
        gains.append(float(found_db) - float(psnr_db(mean, images[place : place + 1], 1.0)))

    assert abs(sum(gains) / len(gains)) < 1.5
    assert max(gains) < 3


@pytest.mark.parametrize("sent", [0.0, math.nan, math.inf])
def test_scalars_that_say_nothing_give_the_prior(sent):
    probed, scalars = probed_half(linear(16), noise_images(2, 1, 4), 5)
    space = ImageSpace(shape_CHW=(1, 4, 4))

    found = ATTACK.reconstruct(torch.full_like(scalars, sent), probed, Prior.of(None, space), space)

    assert found.fit == 1
    assert torch.equal(found.unit_BCHW, space.grey(2, torch.float64))


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(ValueError, match="iterations=0 is not accepted"):
        InvertingScalars(iterations=0)


def test_what_is_rebuilt_is_the_mean_of_the_posterior():
    """Of x ~ N(m, C) and s = Jx + e, e ~ N(0, σ²): E[x | s] = m + (C⁻¹ + JᵀJ/σ²)⁻¹ Jᵀ(s − Jm)/σ², here with C written
    out from its parts."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(12, 2, 3, 4, generator=draw, dtype=torch.float64)
    prior = Prior.of(images, ImageSpace(shape_CHW=(2, 3, 4)))
    slopes = torch.randn(5, 1, 24, generator=draw, dtype=torch.float64)
    point = images[:1]
    apart = torch.randn(5, generator=draw, dtype=torch.float64)
    noise = 0.3

    separable = torch.kron(torch.kron(prior.sides[0], prior.sides[1]), prior.sides[2])
    identity = torch.eye(24, dtype=torch.float64)
    covariance = prior.factor_MN.T @ prior.factor_MN + prior.variance * separable + prior.ridge * identity
    jacobian, mean = slopes[:, 0], prior.mean_CHW.flatten()
    sent = apart + jacobian @ point.flatten()
    precision = torch.linalg.inv(covariance) + jacobian.T @ jacobian / noise**2
    expected = mean + torch.linalg.solve(precision, jacobian.T @ (sent - jacobian @ mean)) / noise**2

    found = prior.given(slopes, apart, point, noise)

    torch.testing.assert_close(found.flatten(), expected, rtol=1e-9, atol=1e-9)


def test_the_prior_keeps_the_variance_of_auxiliary_images():
    """Both parts have the mean variance of a pixel, whatever their shares; and one thousandth beside the second. Noise
    added to mixtures of two patterns makes both shares large."""
    draw = torch.Generator().manual_seed(1)
    patterns = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=draw)
    mixed = torch.einsum("mk,kchw->mchw", torch.rand(20, 2, dtype=torch.float64, generator=draw), patterns)
    images = mixed + torch.rand(20, 1, 4, 4, dtype=torch.float64, generator=draw) / 2
    prior = Prior.of(images, ImageSpace(shape_CHW=(1, 4, 4)))

    low_rank = float(prior.factor_MN.square().sum()) / 16

    variance = float((images - images.mean(0)).square().mean())
    assert low_rank + prior.variance + prior.ridge == pytest.approx(variance, rel=2e-3)
    assert [float(side.trace()) for side in prior.sides] == pytest.approx([1, 4, 4])


def test_independent_pixels_are_shrunk_more_than_a_few_patterns():
    """Noise has no covariance to learn from 20 images; mixtures of two patterns have little else, and are no product
    of rows and columns."""
    draw = torch.Generator().manual_seed(2)
    space = ImageSpace(shape_CHW=(1, 4, 4))
    patterns = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=draw)
    mixed = torch.einsum("mk,kchw->mchw", torch.rand(20, 2, dtype=torch.float64, generator=draw), patterns)

    noise = Prior.of(torch.rand(20, 1, 4, 4, dtype=torch.float64, generator=draw), space)

    of_mixtures = Prior.of(mixed, space)
    assert float(noise.factor_MN.square().sum()) < noise.variance * 16
    assert float(of_mixtures.factor_MN.square().sum()) > of_mixtures.variance * 16


@pytest.mark.parametrize("images", [None, torch.rand(1, 1, 4, 4), torch.full((3, 1, 4, 4), 0.3)])
def test_without_images_that_differ_the_prior_is_grey(images):
    prior = Prior.of(images, ImageSpace(shape_CHW=(1, 4, 4)))

    assert bool((prior.mean_CHW == 0.5).all())
    assert prior.ridge == pytest.approx(1 / 12)
    assert prior.variance == 0
