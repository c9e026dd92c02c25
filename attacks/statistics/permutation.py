"""The area under the ROC curve, and what it would be by chance."""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from lightning_sfl.random import generator

_PERMUTATIONS = 2000


def auc(scores_N: Tensor, positive_N: Tensor) -> float:
    """The chance that a positive record scores above a negative one, ties counting half (Mann-Whitney).

    Raises:
        ValueError: There is no positive or no negative record, or a score is NaN.
    """
    ranks, positive = _ranks(scores_N, positive_N)
    return _auc(ranks, positive)


def auc_p_value(scores_N: Tensor, positive_N: Tensor, *, seed: int = 0) -> float:
    """Chance of an AUC at least as far from one half, on either side, were labels dealt out at random."""
    ranks, positive = _ranks(scores_N, positive_N)
    found = abs(_auc(ranks, positive) - 0.5)
    draw = generator(seed, "permutation")
    reached = sum(abs(_auc(ranks, draw.permutation(positive)) - 0.5) >= found - 1e-12 for _ in range(_PERMUTATIONS))
    return (1 + reached) / (1 + _PERMUTATIONS)


def _ranks(scores_N: Tensor, positive_N: Tensor) -> tuple[np.ndarray, np.ndarray]:
    positive = positive_N.to(torch.bool).cpu().numpy()
    if positive.all() or not positive.any():
        raise ValueError("An AUC needs records of both kinds; all are of one.")
    scores = scores_N.detach().double().cpu().numpy()
    if unranked := int(np.isnan(scores).sum()):
        raise ValueError(f"An AUC ranks scores, and {unranked} of {len(scores)} are no numbers (NaN).")
    return rankdata(scores), positive


def _auc(ranks: np.ndarray, positive: np.ndarray) -> float:
    positives = int(positive.sum())
    above = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(positive) - positives))
