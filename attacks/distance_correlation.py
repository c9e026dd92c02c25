"""Distance correlation: how much two sets of vectors depend on each other, 0 only if not at all."""

import torch
from torch import Tensor

_ROUNDING = 1e-13


def distance_correlation(x_NP: Tensor, y_NQ: Tensor) -> float:
    """The unbiased squared distance correlation of paired samples (Székely and Rizzo 2014).

    Distances are Euclidean, not squared; diagonals are left out and distances U-centred, so independent samples give 0
    on average, however many dimensions they have. It may be below 0. Where all records of a side are equally far from
    each other, equal ones included, it is 0: their distances say nothing.

    Args:
        x_NP: One row per record, at least 4 of them.
        y_NQ: The same records' other rows.

    Raises:
        ValueError: There are fewer than 4 records, or not as many rows on both sides, or a value is not finite.
    """
    if len(x_NP) != len(y_NQ) or len(x_NP) < 4:
        raise ValueError(f"rows={len(x_NP)} and {len(y_NQ)} are not accepted: give as many of both, at least 4.")
    if not (x_NP.isfinite().all() and y_NQ.isfinite().all()):
        raise ValueError("Distances are measured between finite values only; these hold NaN or infinite ones.")
    a, b = _centred(x_NP), _centred(y_NQ)
    scale = float((a * a).sum() * (b * b).sum()) ** 0.5
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _centred(rows_NP: Tensor) -> Tensor:
    """U-centred distances: a_ij - Σ_l a_il/(n-2) - Σ_k a_kj/(n-2) + Σ_kl a_kl/((n-1)(n-2)), 0 on the diagonal."""
    flat = rows_NP.flatten(1).double()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(flat)
    across = distance.sum(1, keepdim=True) / (n - 2)
    centred = distance - across - across.T + distance.sum() / ((n - 1) * (n - 2))
    # What is left of equal distances is rounding.
    centred[centred.abs() <= _ROUNDING * distance.max()] = 0
    return centred.fill_diagonal_(0)
