import math

import numpy as np
import pytest
import torch
from attack_cases import noise_images
from torch import Tensor

from attacks.metrics import MOST_PSNR_DB, psnr_db, ssim


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
