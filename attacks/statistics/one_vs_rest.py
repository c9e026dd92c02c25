"""One class against the rest, for all classes: areas under ROC curves, what each record adds to them, and chance."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from lightning_sfl.random import generator

_PERMUTATIONS = 2000
CHANCE = 0.5
"""The area of scores that say nothing."""

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Areas:
    """How well scores tell classes from the rest, in the mean over the classes.

    Attributes:
        mean: The mean area under the ROC curve.
        parts_N: What every record adds; their mean is the mean area. They are the structural components of DeLong et
            al. 1988, each class scaled to weigh alike, so that resampling them by clients resamples the area
            (clustered ROC data, Obuchowski 1997).
        beyond_N: Share of the records of other classes that a record is placed beyond in its own class's column; one
            half where it has none.
    """

    mean: float
    parts_N: Tensor
    beyond_N: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chance:
    """The mean area were labels dealt out at random.

    Attributes:
        mean: In the mean.
        p_value: The chance that it is as large as what was found, or larger.
    """

    mean: float
    p_value: float


def areas(scores_NK: Tensor, classes: Sequence[int] | None, labels_N: Tensor) -> Areas | None:
    """The mean area; None where no class has one.

    A class has one if it has a column, and there are records of it and of others.

    Args:
        scores_NK: Higher for records that are likelier of the column's class.
        classes: The class of every column; None for a single column that tells classes apart, and does not say which is
            which: an area below one half is folded up then.
        labels_N: The classes of the records.

    Raises:
        ValueError: A score is NaN.
    """
    ranks_NC, own_N = _ranked(scores_NK, classes, labels_N)
    if not ranks_NC.shape[1]:
        return None
    parts_N, beyond_N = np.zeros(len(own_N)), np.full(len(own_N), CHANCE)
    for place, rank_N in enumerate(ranks_NC.T):
        of_class_N = own_N == place
        part_N, beyond_P = _components(rank_N, of_class_N)
        if classes is None and part_N.mean() < CHANCE:
            part_N, beyond_P = 1 - part_N, 1 - beyond_P
        parts_N += part_N / ranks_NC.shape[1]
        beyond_N[of_class_N] = beyond_P
    return Areas(mean=float(parts_N.mean()), parts_N=torch.from_numpy(parts_N), beyond_N=torch.from_numpy(beyond_N))


def by_chance(scores_NK: Tensor, classes: Sequence[int] | None, labels_N: Tensor, *, seed: int = 0) -> Chance:
    """What :func:`areas` would give of labels that have nothing to do with the scores; folded where it folds.

    Args:
        scores_NK: See there.
        classes: See there.
        labels_N: See there.
        seed: Seeds the permutations.
    """
    ranks_NC, own_N = _ranked(scores_NK, classes, labels_N)
    if not ranks_NC.shape[1]:
        return Chance(mean=CHANCE, p_value=1.0)
    draw = generator(seed, "permutation")
    found = _mean_area(ranks_NC, own_N, folds=classes is None)
    dealt = np.array(
        [_mean_area(ranks_NC, draw.permutation(own_N), folds=classes is None) for _ in range(_PERMUTATIONS)]
    )
    return Chance(
        mean=float(dealt.mean()) if classes is None else CHANCE,
        p_value=float((1 + (dealt >= found - 1e-12).sum()) / (1 + _PERMUTATIONS)),
    )


def _ranked(scores_NK: Tensor, classes: Sequence[int] | None, labels_N: Tensor) -> tuple[Floats, NDArray[np.int64]]:
    """Ranks in the column of every class that has an area, and the place of every record's class among those, or -1."""
    scores, labels = scores_NK.detach().double().cpu().numpy(), labels_N.cpu().numpy()
    if unranked := int(np.isnan(scores).sum()):
        raise ValueError(f"An AUC ranks scores, and {unranked} of {scores.size} are no numbers (NaN).")
    present, counts = np.unique(labels, return_counts=True)
    whole = [int(label) for label, count in zip(present, counts, strict=True) if count < len(labels)]
    column = dict.fromkeys(whole, 0) if classes is None else {label: place for place, label in enumerate(classes)}
    told = [label for label in whole if label in column]
    places = {label: place for place, label in enumerate(told)}
    own_N = np.array([places.get(int(label), -1) for label in labels], dtype=np.int64)
    return rankdata(scores, axis=0)[:, [column[label] for label in told]], own_N


def _components(rank_N: Floats, positive_N: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """What every record adds to the area of one class, and of its records which share of the others they are beyond."""
    positives, records = int(positive_N.sum()), len(rank_N)
    share_N = np.empty(records)  # of the records of the other kind, on the right side of this one; ties count half
    share_N[positive_N] = (rank_N[positive_N] - rankdata(rank_N[positive_N])) / (records - positives)
    share_N[~positive_N] = 1 - (rank_N[~positive_N] - rankdata(rank_N[~positive_N])) / positives
    area = float(share_N[positive_N].mean())
    kind_N = np.where(positive_N, positives, records - positives)
    return area + (share_N - area) * records / kind_N, share_N[positive_N]


def _mean_area(ranks_NC: Floats, own_N: NDArray[np.int64], *, folds: bool) -> float:
    """The mean area alone: Mann-Whitney's U of every class, from its sum of ranks."""
    columns = ranks_NC.shape[1]
    has = own_N >= 0
    counts_C = np.bincount(own_N[has], minlength=columns)
    sums_C = np.bincount(own_N[has], weights=ranks_NC[has, own_N[has]], minlength=columns)
    area_C = (sums_C - counts_C * (counts_C + 1) / 2) / (counts_C * (len(own_N) - counts_C))
    return float((np.abs(area_C - CHANCE) + CHANCE if folds else area_C).mean())
