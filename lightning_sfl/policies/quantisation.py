"""What quantising smashed data and cut gradients adds to the convergence bound."""

import numpy as np

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.world.arrays import FloatArray, IntArray


def quantisation_error(
    bits: IntArray | FloatArray, elements: FloatArray | float = 1.0, range: FloatArray | float = 1.0
) -> FloatArray:
    """The most that stochastic uniform quantisation errs in the mean square, D (z_max - z_min)² / (4 (2^q - 1)²).

    It rounds to one of two neighbours with the right mean, so it adds variance and no drift, and a number halfway
    between two levels, a step of (z_max - z_min)/(2^q - 1) apart, errs by half a step (SFLAM, arXiv 2504.09114, in the
    standard form; a reconstruction). It falls fourfold per bit, to rounding. By default: of one element, as a share of
    the squared range.

    Args:
        bits: Bits per element, q; nothing is quantised at 32.
        elements: Elements of a tensor, D.
        range: From its least value to its largest.
    """
    levels = np.exp2(np.asarray(bits, dtype=np.float64)) - 1.0
    error = elements * np.square(range) / (4.0 * np.square(levels))
    found: FloatArray = np.where(np.asarray(bits) == UNENCODED_BIT, 0.0, error)
    return found


def quantisation_variance(
    bits: IntArray | FloatArray, elements: FloatArray | float, range: FloatArray | float, sensitivity: float
) -> float:
    """What it adds to the bound's variance: C · (1/N) Σ_n D (z_max - z_min)² / (4 (2^q_n - 1)²), q of N clients.

    Added to ``Bound.variance``. C stands for how strongly gradients answer to an error in what crosses; the paper's
    own constants are not known.

    Args:
        bits: Bits per element of every client, (N,).
        elements: Elements of what crosses.
        range: Its range.
        sensitivity: C.
    """
    return sensitivity * float(np.mean(quantisation_error(bits, elements, range)))
