"""Batch sizes and cuts drawn at random, each client's by itself: a function of seed, round and client."""

from collections.abc import Iterator

import numpy as np

from lightning_sfl.policies.decision import InfeasibleError
from lightning_sfl.policies.observation import Observation
from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import BoolArray, IntArray

_MOST_DRAWS = 100


def drawn_batches(seen: Observation, most: IntArray, seed: int, attempt: int = 0) -> IntArray:
    """Batches from 1 to each client's largest, (K,), all equally likely."""
    return 1 + np.floor(_drawn(seen, "random batch sizes", seed, attempt) * most).astype(np.int64)


def drawn_cuts(seen: Observation, allowed: BoolArray, seed: int, attempt: int = 0) -> IntArray:
    """For each client one of the cuts that it may have, (K, C), all equally likely."""
    place = np.floor(_drawn(seen, "random cuts", seed, attempt) * allowed.sum(axis=1)).astype(np.int64)
    found: IntArray = (np.cumsum(allowed, axis=1) == place[:, None] + 1).argmax(axis=1)
    return found


def attempts(what: str, target: float) -> Iterator[int]:
    """Numbers of draws, until one reaches the target; an InfeasibleError after as many as can be hoped for."""
    yield from range(_MOST_DRAWS)
    raise InfeasibleError(f"target={target:g} is out of reach of {_MOST_DRAWS} draws of {what}, though not of all.")


def check_seed(owner: str, seed: int) -> None:
    """Raise a ValueError for a seed that there is not."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"{owner}(seed={seed!r}) is not accepted: give an integer of at least 0.")


def _drawn(seen: Observation, what: str, seed: int, attempt: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    count = int(seen.clients.max()) + 1
    drawn: np.ndarray[tuple[int], np.dtype[np.float64]] = uniforms(count, seed, what, seen.round, attempt)[seen.clients]
    return drawn
