import math

import numpy as np
import pytest
import torch
from attack_cases import noise_images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.metrics import MOST_PSNR_DB, identified, psnr_db, squared_error, ssim


@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.001])
def test_psnr_of_a_constant_offset(data_range, share):
    """An offset of s·range has a mean squared error of (s·range)², so the ratio is −20·log10(s), whatever the range."""
    originals = data_range * (0.1 + 0.3 * noise_images(3).double())

    found = psnr_db(originals + share * data_range, originals, data_range)

    assert found.shape == (3,)
    assert found.tolist() == pytest.approx([-20 * math.log10(share)] * 3)


def test_psnr_is_taken_record_by_record():
    """Offsets 0.1 and 0.01 give 20 and 40 dB; half of the pixels off by 0.1 give half the error, 3.01 dB more."""
    originals = torch.full((3, 1, 4, 4), 0.5)
    images = originals.clone()
    images[0] += 0.1
    images[1] -= 0.01
    images[2, :, :2] += 0.1

    assert psnr_db(images, originals, 1.0).tolist() == pytest.approx([20, 40, 20 + 10 * math.log10(2)], abs=1e-3)


def test_psnr_of_opposites_is_zero():
    assert psnr_db(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 1.0).tolist() == [0]


def test_psnr_is_capped_where_the_formula_has_no_bound():
    """Equal images have no error at all; an error of 1e-11 would be 110 dB."""
    originals = noise_images(1).double()
    nearly = originals + 10**-5.5
    over = originals + 10**-4.9

    assert psnr_db(originals, originals, 1.0).tolist() == [100]
    assert psnr_db(nearly, originals, 1.0).tolist() == [100]
    assert psnr_db(over, originals, 1.0).tolist() == pytest.approx([98])
    assert MOST_PSNR_DB == 100


def straight_ssim(one: np.ndarray, other: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004, equation 13, window by window: uniform 7x7, borders mirrored, population moments."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for x, y in zip(one, other, strict=True):  # channels
        padded_x, padded_y = np.pad(x, 3, mode="reflect"), np.pad(y, 3, mode="reflect")
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                a = padded_x[row : row + 7, column : column + 7].ravel()
                b = padded_y[row : row + 7, column : column + 7].ravel()
                covariance = ((a - a.mean()) * (b - b.mean())).mean()
                numerator = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
                found.append(numerator / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_the_formula_written_out(channels, data_range):
    originals = data_range * noise_images(2, channels, size=10)
    images = (originals + 0.2 * data_range * (noise_images(2, channels, size=10, seed=1) - 0.5)).clamp(0, data_range)

    found = ssim(images, originals, data_range)

    expected = [
        straight_ssim(image.double().numpy(), original.double().numpy(), data_range)
        for image, original in zip(images, originals, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert all(0.2 < value < 0.99 for value in expected)  # the case is not trivial


def test_ssim_of_equal_images_is_one():
    images = noise_images(3)

    assert ssim(images, images, 1.0).tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize(("one", "other"), [(0.2, 0.8), (0.5, 0.5), (0.0, 1.0)])
def test_ssim_of_flat_images(one, other):
    """Without variance only the luminance term is left: (2ab + c₁) / (a² + b² + c₁) with c₁ = 0.01²."""

    def flat(value: float) -> Tensor:
        return torch.full((1, 1, 8, 8), value)

    expected = (2 * one * other + 1e-4) / (one**2 + other**2 + 1e-4)

    assert ssim(flat(one), flat(other), 1.0).tolist() == pytest.approx([expected], rel=1e-6)


def test_ssim_is_taken_record_by_record():
    originals, images = noise_images(2), noise_images(2)
    images[1] = 0.5

    both = ssim(images, originals, 1.0)

    assert both.shape == (2,)
    assert float(both[0]) == pytest.approx(1)
    assert float(both[1]) == pytest.approx(float(ssim(images[1:], originals[1:], 1.0)))
    assert float(both[1]) < 0.5


# Identification in a pool


def straight_identified(images: Tensor, originals: Tensor, pool: Tensor) -> list[float]:
    """Record by record, image by image: nearer to its own original than to every other of originals and pool."""
    found = []
    for own, image in enumerate(images):
        others = [other for place, other in enumerate(originals) if place != own] + list(pool)
        nearest_other = min(float((image - other).square().sum()) for other in others)
        found.append(float(float((image - originals[own]).square().sum()) < nearest_other))
    return found


@given(records=st.integers(2, 6), further=st.integers(1, 5), seed=st.integers(0, 999), noise=st.floats(0, 1))
def test_identified_equals_the_definition_written_out(records, further, seed, noise):
    originals = noise_images(records, 1, size=2, seed=seed).double()
    pool = noise_images(further, 1, size=2, seed=seed + 1).double()
    images = (1 - noise) * originals + noise * noise_images(records, 1, size=2, seed=seed + 2)

    assert identified(images, originals, pool).tolist() == straight_identified(images, originals, pool)
    assert identified(images, originals).tolist() == straight_identified(images, originals, pool[:0])


def test_the_originals_themselves_are_identified_and_the_same_guess_for_all_is_not():
    """A constant guess is nearest to one of the originals at most."""
    originals = noise_images(5)

    assert identified(originals, originals).tolist() == [1] * 5
    assert identified(torch.full_like(originals, 0.5), originals).sum() <= 1


def test_a_nearer_image_of_the_pool_stands_in_the_way():
    """At 0.4 the original 0 is 0.4 away, the other original 1 is 0.6, the further image 0.5 only 0.1."""
    originals, image = torch.tensor([0.0, 1.0])[:, None, None, None], torch.tensor([0.4, 1.0])[:, None, None, None]

    assert identified(image, originals).tolist() == [1, 1]
    assert identified(image, originals, torch.full((1, 1, 1, 1), 0.5)).tolist() == [0, 1]


@pytest.mark.parametrize("size", [8, 32])
def test_a_record_with_an_equal_twin_is_never_identified(size):
    """Regression, ‖x‖² − 2xy + ‖y‖²: with more than 25 images, equal distances came out different by rounding."""
    twins = noise_images(20, size=size)
    images = twins + 0.1 * noise_images(20, size=size, seed=1)

    assert identified(torch.cat([images, images]), torch.cat([twins, twins])).sum() == 0
    assert identified(images, twins, twins).sum() == 0


def test_what_is_no_number_is_not_identified():
    images = noise_images(3)
    images[1, 0, 0, 0] = float("nan")

    assert identified(images, noise_images(3)).tolist() == [1, 0, 1]


@given(records=st.integers(1, 4), offset=st.floats(-1, 1))
def test_squared_error_of_a_constant_offset_is_its_square_whatever_the_shape(records, offset):
    originals = noise_images(records).double()

    assert squared_error(originals + offset, originals).tolist() == pytest.approx([offset**2] * records, abs=1e-15)


def test_squared_error_is_a_mean_over_elements_record_by_record_in_double():
    """Half of the elements off by 2 gives 2; in half precision 300² would overflow."""
    originals = torch.zeros(2, 1, 2, 2, dtype=torch.float16)
    images = originals.clone()
    images[0, :, 0] = 2
    images[1] = 300

    assert squared_error(images, originals).tolist() == [2, 90000]
