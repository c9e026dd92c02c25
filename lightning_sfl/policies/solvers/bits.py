"""Bits per element: the fewest to be sent whose error is allowed (SFLAM, arXiv 2504.09114; a reconstruction)."""

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray


def fewest(sent_bit: FloatArray, error: FloatArray, most_error: float) -> IntArray:
    """Which choice each client is given, (K,); -1 for one whose error is too large with all of them.

    Whatever is decided besides, fewer bits cost no more: they are sent in less time, or in the same with less energy.

    Args:
        sent_bit: What a client sends with every choice, (K, Q).
        error: How far its numbers are off, (K, Q).
        most_error: How far they may be.
    """
    allowed = error <= most_error
    found: IntArray = np.where(allowed, sent_bit, np.inf).argmin(axis=1)
    return np.where(allowed.any(axis=1), found, -1)
