"""Means with confidence intervals."""

import numpy as np
from torch import Tensor

from lightning_sfl.random import generator
from lightning_sfl.report.report import Interval

_RESAMPLES = 2000


def bootstrap_mean(values: Tensor, *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """The mean over records with a percentile bootstrap interval (Efron 1979), records drawn with replacement.

    Args:
        values: One value per record, shape (records,).
        seed: Seeds the resampling.
        confidence: Level of the interval.
    """
    array = values.detach().double().cpu().numpy()
    draw = generator(seed, "bootstrap")
    means = array[draw.integers(len(array), size=(_RESAMPLES, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=float(array.mean()), low=float(low), high=float(high), records=len(array))
