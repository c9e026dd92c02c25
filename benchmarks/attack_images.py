"""The images that benchmarks attack, and how a reconstruction of them is scored.

"SK8": eight crops of scikit-learn's two sample photographs (china, flower), quartered by box averaging, 32x32; labels
0 to 7. The scored set T4 are four of them; 1, 4 and 6 have little texture. "Digits": scikit-learn's, enlarged to 32x32
and repeated to three channels, 1200 to train a victim with, the others held out. Pixels are in [0, 1]; victims see them
normalised by mean 0.5 and standard deviation 0.5.
"""

import dataclasses
from functools import cache

import numpy as np
import torch
from skimage.metrics import structural_similarity
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate

from attacks.metrics import psnr_db

SIZE = 32
SCORED = (0, 2, 5, 7)
"""T4, places in SK8."""
TRAINING_DIGITS = 1200
_CORNERS = ((10, 20), (10, 90), (60, 20), (60, 90))


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    """Both photographs, quartered: (106, 160, 3) in [0, 1]."""
    return tuple(
        image[:424, :640].reshape(106, 4, 160, 4, 3).mean(axis=(1, 3)) / 255 for image in load_sample_images().images
    )


def _crop(photograph: np.ndarray, row: int, column: int) -> Tensor:
    part = photograph[row : row + SIZE, column : column + SIZE]
    return torch.from_numpy(part).permute(2, 0, 1).float()


def sk8() -> Tensor:
    """The eight crops, (8, 3, 32, 32)."""
    return torch.stack([_crop(photograph, *corner) for photograph in _photographs() for corner in _CORNERS])


def disjoint_crops(count: int, seed: int = 0) -> Tensor:
    """Crops of the same photographs that overlap none of the eight, mirrored at random: (count, 3, 32, 32)."""
    draw = torch.Generator().manual_seed(seed)
    crops: list[Tensor] = []
    while len(crops) < count:
        which = int(torch.randint(2, (), generator=draw))
        row = int(torch.randint(106 - SIZE + 1, (), generator=draw))
        column = int(torch.randint(160 - SIZE + 1, (), generator=draw))
        if any(abs(row - top) < SIZE and abs(column - left) < SIZE for top, left in _CORNERS):
            continue
        crop = _crop(_photographs()[which], row, column)
        crops.append(crop.flip(2) if torch.rand((), generator=draw) < 0.5 else crop)
    return torch.stack(crops)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits, (1797, 3, 32, 32), and their labels."""
    found = load_digits()
    small = torch.from_numpy(found.images / 16).float()[:, None]
    large = interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False).clamp(0, 1)
    return large.repeat(1, 3, 1, 1), torch.from_numpy(found.target)


def normalised(images: Tensor) -> Tensor:
    """What a victim sees."""
    return (images - 0.5) / 0.5


@dataclasses.dataclass(frozen=True)
class Score:
    """Means over images, of pictures clipped to [0, 1]."""

    psnr_db: float
    ssim: float
    each_db: tuple[float, ...]


def score(rebuilt: Tensor, originals: Tensor) -> Score:
    """Score pictures in [0, 1] in the order of their originals; scikit-image's SSIM, window 7."""
    rebuilt = rebuilt.clamp(0, 1)
    each = psnr_db(rebuilt, originals, 1.0)
    alike = [
        structural_similarity(one.numpy(), other.numpy(), channel_axis=0, data_range=1.0)
        for one, other in zip(rebuilt, originals, strict=True)
    ]
    return Score(float(each.mean()), float(np.mean(alike)), tuple(each.tolist()))
