"""Means with confidence intervals, by resampling whole clients."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student_t
from torch import Tensor

from lightning_sfl.random import generator
from lightning_sfl.report.leakage import Interval

RESAMPLES = 4000
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Gain:
    """A paired difference.

    Attributes:
        interval: Its mean and interval.
        p_value: That its mean is not above 0, one-sided: the share of resampled means that are not, counting the
            sample itself. 1 where there are fewer than 2 records.
    """

    interval: Interval
    p_value: float


def bootstrap_mean(values_N: Tensor, clients_N: Tensor, *, seed: int = 0) -> Interval:
    """The mean over records with a percentile bootstrap interval (Efron 1979), clustered.

    Clients are drawn with replacement, each with all its records (Field and Welsh 2007, "Bootstrapping clustered
    data"); of a single client, records are. Of K drawn units, resampled means lie too close together for a small K:
    their distances from the mean are stretched by √(K / (K - 1)) and by Student's t with K - 1 degrees of freedom over
    the normal quantile (as Hesterberg 2015, "What teachers should know about the bootstrap", expands percentile
    intervals), 9-fold for 2 clients and by 4 % for 50.

    Args:
        values_N: One value per record.
        clients_N: Whose record it is.
        seed: Seeds the resampling.
    """
    return _interval(*_resampled(values_N, clients_N, seed))


def paired_gain(values_N: Tensor, guesses_N: Tensor, clients_N: Tensor, *, seed: int = 0) -> Gain:
    """How much better one value is than the other, record by record."""
    found, clients, means = _resampled(values_N - guesses_N, clients_N, seed)
    p_value = 1.0 if means is None else float((1 + (means <= 0).sum()) / (1 + len(means)))
    return Gain(_interval(found, clients, means), p_value)


def _resampled(
    values_N: Tensor, clients_N: Tensor, seed: int
) -> tuple[NDArray[np.float64], int, NDArray[np.float64] | None]:
    """The values, of how many clients they are, and resampled means, stretched; None of fewer than 2 values."""
    values = values_N.detach().double().cpu().numpy()
    _, whose = np.unique(clients_N.cpu().numpy(), return_inverse=True)
    clients = int(whose.max()) + 1
    if len(values) < 2:
        return values, clients, None
    draw = generator(seed, "bootstrap")
    if clients == 1:
        units = len(values)
        means = values[draw.integers(units, size=(RESAMPLES, units))].mean(axis=1)
    else:
        units = clients
        sums, counts = np.bincount(whose, weights=values), np.bincount(whose)
        drawn = draw.integers(units, size=(RESAMPLES, units))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 + _CONFIDENCE) / 2
    stretch = float(student_t.ppf(tail, units - 1) / normal.ppf(tail)) * (units / (units - 1)) ** 0.5
    return values, clients, values.mean() + stretch * (means - values.mean())


def _interval(values: NDArray[np.float64], clients: int, means: NDArray[np.float64] | None) -> Interval:
    low = high = None
    if means is not None:
        low, high = (float(end) for end in np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]))
    return Interval(mean=float(values.mean()), low=low, high=high, records=len(values), clients=clients)
