"""How well an attack told the records that were used from others, against chance."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from attacks.attack import RankedCandidates
from attacks.attacker import Pool
from attacks.audit.score import Score
from attacks.audit.truth import Truth
from attacks.statistics.interval import Gain, bootstrap_mean, paired_gain
from lightning_sfl.random import generator
from lightning_sfl.report.leakage import Baseline, Interval

_PERMUTATIONS = 2000
_CHANCE = "chance"
_OTHER = "the same attack on another client's messages"


def score_candidates(batches: Sequence[RankedCandidates], truth: Truth, pool: Pool) -> Score:
    """Score rankings: for every record, the share of the candidates outside its batch that it is ranked above.

    Its mean over a batch is the area under the ROC curve of telling the batch from the others, one half by chance; 1 is
    a record that was identified. The p-value is that of a permutation test: were which candidates were used dealt out
    at random, how often would the mean be as high?
    """
    used = [pool.places(batch.round, truth.indices(batch.number)) for batch in batches]
    scores = [batch.scores_N.double().cpu().nan_to_num(nan=-torch.inf).numpy() for batch in batches]
    clients_N = torch.cat(
        [torch.full((len(own),), truth.client(batch.number)) for batch, own in zip(batches, used, strict=True)]
    )
    above_N = torch.cat([_above(score, own, own) for score, own in zip(scores, used, strict=True)])
    half_N = torch.full_like(above_N, 0.5)
    guesses = {_CHANCE: half_N}
    if len(batches) > 1:
        others = [*scores[1:], scores[0]]
        outside = [[*own, *next_own] for own, next_own in zip(used, [*used[1:], used[0]], strict=True)]
        guesses[_OTHER] = torch.cat([_above(s, own, out) for s, own, out in zip(others, used, outside, strict=True)])
    best = max(guesses, key=lambda name: float(guesses[name].mean()))
    gain = paired_gain(above_N, guesses[best], clients_N)
    chance = np.mean([len(own) / len(score) for score, own in zip(scores, used, strict=True)])
    among_N = torch.cat([_among_the_best(score, own) for score, own in zip(scores, used, strict=True)])
    return Score(
        recovers="membership",
        measure="candidates ranked below",
        value=bootstrap_mean(above_N, clients_N),
        baseline=best,
        baselines=tuple(Baseline(name=name, value=bootstrap_mean(v, clients_N)) for name, v in guesses.items()),
        gain=Gain(gain.interval, gain.p_value if gain.interval.low is None else _p_value(scores, used)),
        worst_record=float(above_N.max()),
        threshold=1.0,
        share_recovered=float((above_N >= 1).double().mean()),
        others={
            "among as many best candidates as were used": bootstrap_mean(among_N, clients_N),
            "the same by chance": Interval(
                mean=float(chance), low=None, high=None, records=len(above_N), clients=len(batches)
            ),
        },
        fit=None,
        pictures=(),
    )


def _above(scores_N: np.ndarray, own: Sequence[int], outside: Sequence[int]) -> Tensor:
    """For the candidates at these places, the share of all but those ``outside`` that score below, ties half."""
    rest = np.sort(np.delete(scores_N, np.unique(outside)))
    mine = scores_N[list(own)]
    below = (np.searchsorted(rest, mine, "left") + np.searchsorted(rest, mine, "right")) / 2
    return torch.from_numpy(below / len(rest))


def _among_the_best(scores_N: np.ndarray, own: Sequence[int]) -> Tensor:
    """Whether each is among as many best candidates as there are; ties count as lost."""
    places = rankdata(-scores_N, method="max")[list(own)]
    return torch.from_numpy((places <= len(own)).astype(np.float64))


def _p_value(scores: Sequence[np.ndarray], used: Sequence[Sequence[int]]) -> float:
    """How often the mean is as high by chance, one-sided: every batch is dealt out anew over the whole pool."""
    draw = generator(0, "permutation")
    ranks = [rankdata(score) for score in scores]

    def total(dealt: Sequence[np.ndarray]) -> float:
        # Of a batch of n, ranks R among all N: Σ R − n(n + 1)/2 pairs of one of it above one outside, of N − n each.
        above = [
            (ranked[own].sum() - len(own) * (len(own) + 1) / 2) / (len(ranked) - len(own))
            for ranked, own in zip(ranks, dealt, strict=True)
        ]
        return float(sum(above))

    found = total([np.asarray(own) for own in used])
    reached = 0
    for _ in range(_PERMUTATIONS):
        dealt = [draw.permutation(len(ranked))[: len(own)] for ranked, own in zip(ranks, used, strict=True)]
        reached += total(dealt) >= found - 1e-12
    return (1 + reached) / (1 + _PERMUTATIONS)
