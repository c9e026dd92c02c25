"""Memory as a function of the batch size: the most of several affine ones, exact for a program of fixed operations."""

import numpy as np

from lightning_sfl.world.arrays import FloatArray


def lines_through(one: FloatArray, other: FloatArray, one_size: int, other_size: int) -> FloatArray:
    """Affine functions of the batch size, (T, 2) as fixed and per sample, from their values (T,) at two sizes."""
    per_sample = (other - one) / (other_size - one_size)
    return np.stack([one - per_sample * one_size, per_sample], axis=-1)


def upper_envelope(lines: FloatArray) -> FloatArray:
    """Those of the affine functions (T, 2) that are the greatest at some batch size from 1 on, (L, 2) in order."""
    at_one = lines.sum(axis=1)
    now = max(range(len(lines)), key=lambda place: (at_one[place], lines[place, 1]))
    found, size = [lines[now]], 1.0
    while True:
        steeper = lines[lines[:, 1] > lines[now, 1]]
        if not len(steeper):
            return np.array(found)
        meets = (lines[now, 0] - steeper[:, 0]) / (steeper[:, 1] - lines[now, 1])
        size = float(meets.min())
        first = steeper[meets <= size]
        chosen = first[first[:, 1].argmax()]
        now = int(np.flatnonzero((lines == chosen).all(axis=1))[0])
        found.append(chosen)


def stacked(envelopes: list[FloatArray]) -> FloatArray:
    """Envelopes of different lengths as one array, (C, L, 2); a shorter one has its last function again."""
    most = max((len(lines) for lines in envelopes), default=1)
    longest = [np.concatenate([lines, np.repeat(lines[-1:], most - len(lines), axis=0)]) for lines in envelopes]
    return np.array(longest, dtype=np.float64).reshape(len(envelopes), most, 2)


def greatest(lines: FloatArray, batch_size: FloatArray) -> FloatArray:
    """The greatest of the affine functions (..., L, 2) at batch sizes (...)."""
    most: FloatArray = (lines[..., 0] + lines[..., 1] * np.asarray(batch_size)[..., None]).max(axis=-1)
    return most
