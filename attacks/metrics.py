"""How alike two images are, record by record."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

MOST_PSNR_DB = 100.0
"""The peak signal-to-noise ratio given to what is equal to float precision, where the formula has no bound."""


def psnr_db(images_BCHW: Tensor, originals_BCHW: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of every record in decibels, 10·log10(range² / mean squared error); at most 100.

    Args:
        images_BCHW: Images, shape (records, channels, height, width).
        originals_BCHW: What they are compared with, of the same shape.
        data_range: Largest minus smallest value a pixel can have.

    Returns:
        Shape (records,).
    """
    error_B = (images_BCHW.double() - originals_BCHW.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(data_range**2 / error_B)).clamp(max=MOST_PSNR_DB)


def ssim(images_BCHW: Tensor, originals_BCHW: Tensor, data_range: float) -> Tensor:
    """Structural similarity of every record (Wang et al. 2004), uniform 7x7 window; 1 for equal images.

    Args:
        images_BCHW: Images, shape (records, channels, height, width), at least 7x7 pixels.
        originals_BCHW: What they are compared with, of the same shape.
        data_range: Largest minus smallest value a pixel can have.

    Returns:
        Shape (records,).
    """
    similarity = structural_similarity_index_measure(
        images_BCHW.double(),
        originals_BCHW.double(),
        gaussian_kernel=False,
        kernel_size=7,
        data_range=data_range,
        reduction="none",
    )
    assert isinstance(similarity, Tensor)
    return similarity
