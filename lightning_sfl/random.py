"""Counter-based random numbers: every draw is a function of a seed and of what it is for.

A generator is made on the spot from ``(seed, purpose, counters)``. Nothing is carried from draw to draw, so a run can
be resumed anywhere, and one client's draw never moves another's. The global random state is neither read nor moved.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from lightning_sfl.portable import log, normal_quantile


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Make the random generator for one purpose.

    Args:
        seed: The user's seed, at least 0.
        purpose: What the draw is for, for example ``"participants"``. Different purposes are independent.
        counters: Which draw it is, for example the round; each at least 0.

    Returns:
        A generator that depends on the arguments alone (Philox 4x64, Salmon et al. 2011, SC'11).
    """
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, *counters)))


def raw_words(count: int, seed: int, purpose: str, *counters: int) -> NDArray[np.uint64]:
    """Draw uniform 64-bit words, fast (SFC64, a chaotic generator). The i-th is the same however many are drawn."""
    words: NDArray[np.uint64] = np.random.SFC64(_sequence(seed, purpose, *counters)).random_raw(count)
    return words


def uniforms(count: int, seed: int, purpose: str, *counters: int) -> NDArray[np.float64]:
    """Draw numbers in [0, 1). The i-th one is the same however many are drawn, and on every machine."""
    return generator(seed, purpose, *counters).random(count)


def exponentials(count: int, seed: int, purpose: str, *counters: int) -> NDArray[np.float64]:
    """Draw from the exponential distribution of mean 1; above 0, and as steady as :func:`uniforms`."""
    return -log(_inside(uniforms(count, seed, purpose, *counters)))


def normals(count: int, seed: int, purpose: str, *counters: int) -> NDArray[np.float64]:
    """Draw from the standard normal distribution, as steadily as :func:`uniforms`."""
    return normal_quantile(_inside(uniforms(count, seed, purpose, *counters)))


def _inside(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers in (0, 1): half a step of the generator in the place of 0."""
    return np.maximum(u, 2.0**-54)


def _sequence(seed: int, purpose: str, *counters: int) -> np.random.SeedSequence:
    if seed < 0:
        raise ValueError(f"seed={seed} is not accepted: give an integer of at least 0.")
    return np.random.SeedSequence(entropy=seed, spawn_key=(zlib.crc32(purpose.encode()), *counters))
