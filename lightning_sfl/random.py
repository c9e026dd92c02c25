"""Counter-based random numbers: every draw is a function of a seed and of what it is for.

A generator is made on the spot from ``(seed, purpose, counters)``. Nothing is carried from draw to draw, so a run can
be resumed anywhere, and one client's draw never moves another's. The global random state is neither read nor moved.
"""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Make the random generator for one purpose.

    Args:
        seed: The user's seed, at least 0.
        purpose: What the draw is for, for example ``"participants"``. Different purposes are independent.
        counters: Which draw it is, for example the round; each at least 0.

    Returns:
        A generator that depends on the arguments alone (Philox 4x64, Salmon et al. 2011, SC'11).
    """
    if seed < 0:
        raise ValueError(f"seed={seed} is not accepted: give an integer of at least 0.")
    key = np.random.SeedSequence(entropy=seed, spawn_key=(zlib.crc32(purpose.encode()), *counters))
    return np.random.Generator(np.random.Philox(key))
