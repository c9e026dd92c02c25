"""How alike two images are, record by record."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

MOST_PSNR_DB = 100.0
"""The peak signal-to-noise ratio given to what is equal to float precision, where the formula has no bound."""


def squared_error(images_BCHW: Tensor, originals_BCHW: Tensor) -> Tensor:
    """Mean squared error of every record, (B,)."""
    return (images_BCHW.double() - originals_BCHW.double()).square().flatten(1).mean(1)


def psnr_db(images_BCHW: Tensor, originals_BCHW: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of every record in decibels, 10·log10(range² / mean squared error); at most 100.

    Args:
        images_BCHW: Images, shape (records, channels, height, width).
        originals_BCHW: What they are compared with, of the same shape.
        data_range: Largest minus smallest value a pixel can have.

    Returns:
        Shape (records,).
    """
    error_B = squared_error(images_BCHW, originals_BCHW)
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


def identified(images_NCHW: Tensor, originals_NCHW: Tensor, pool_MCHW: Tensor | None = None) -> Tensor:
    """Whether every rebuilt record is nearer to its own original than to any other: identification in a pool.

    Args:
        images_NCHW: Rebuilt records.
        originals_NCHW: Their originals, which are the pool.
        pool_MCHW: Further images of the same kind in the pool; None for none.

    Returns:
        1 or 0 for each, (N,); a record that has an equal twin in the pool is never identified.
    """
    pool = originals_NCHW if pool_MCHW is None else torch.cat([originals_NCHW, pool_MCHW.to(originals_NCHW)])
    # Squares written out would round equal distances differently, and a twin would count as farther.
    distance_NM = torch.cdist(
        images_NCHW.flatten(1).double(), pool.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    own_N = distance_NM.diagonal()
    others_NM = distance_NM.clone()
    others_NM.fill_diagonal_(torch.inf)
    return (own_N < others_NM.min(1).values).double()
