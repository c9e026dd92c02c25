"""Random augmentation in workers that does not depend on which worker loads a sample, or on when a run was resumed."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from lightning_sfl.random import generator


class Sample(NamedTuple):
    """A sample that is asked of a worker: whose it is, in which of the client's passes, and its place in the set."""

    client: int
    passes: int
    place: int


class SeededSamples(Dataset[Any]):
    """A data set whose samples' randomness comes from (seed, client, pass, place). For use in workers alone.

    In the main process samples are drawn from the global random state, as in plain Lightning, which a checkpoint holds;
    a worker's own random state is lost with it.

    Args:
        dataset: The user's data set.
        seed: The seed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed
        if hasattr(dataset, "__getitems__"):
            self.__getitems__ = self._fetch_together

    def __getitem__(self, sample: Sample) -> Any:
        self._seed_for(sample)
        return self._dataset[sample.place]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)  # for a `worker_init_fn` that looks at the worker's data set

    def _fetch_together(self, samples: Sequence[Sample]) -> Any:
        self._seed_for(samples[0])
        return self._dataset.__getitems__([sample.place for sample in samples])

    def _seed_for(self, sample: Sample) -> None:
        drawn = int(generator(self._seed, "sample", *sample).integers(2**63))
        torch.manual_seed(drawn)
        np.random.seed(drawn % 2**32)  # noqa: NPY002 - the user's transforms may draw from it
        random.seed(drawn)
