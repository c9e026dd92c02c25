"""How well scores tell the classes of records apart, against chance."""

from collections.abc import Sequence

import torch

from attacks.attack import ScoredLabels
from attacks.attacker import KnownLabels
from attacks.audit.score import Score
from attacks.audit.score_labels import labels_of, unknown_places
from attacks.audit.truth import Truth
from attacks.statistics.interval import Gain, bootstrap_mean, paired_gain
from attacks.statistics.one_vs_rest import CHANCE, areas, by_chance
from lightning_sfl.report.leakage import Baseline


def score_order(batches: Sequence[ScoredLabels], truth: Truth, known: KnownLabels, *, threshold: float) -> Score:
    """Score scores by the area under the ROC curve of each class against the rest, in the mean over the classes.

    The p-value is that of labels dealt out at random. Records whose classes were known do not count.

    Raises:
        ValueError: The records have no class labels.
    """
    places = [unknown_places(batch.number, truth, known) for batch in batches]
    scores_NK = torch.cat([batch.scores_BK.cpu()[kept] for batch, kept in zip(batches, places, strict=True)])
    labels_N = torch.cat([labels_of(truth.of(b.number))[kept] for b, kept in zip(batches, places, strict=True)])
    clients_N = torch.cat(
        [torch.full((len(kept),), truth.client(b.number)) for b, kept in zip(batches, places, strict=True)]
    )
    classes = batches[0].classes
    found, chance = areas(scores_NK, classes, labels_N), by_chance(scores_NK, classes, labels_N)
    nothing_N = torch.full((len(labels_N),), CHANCE, dtype=torch.float64)
    parts_N, beyond_N = (nothing_N, nothing_N) if found is None else (found.parts_N, found.beyond_N)
    guess_N = torch.full_like(nothing_N, chance.mean)
    dealt = "labels dealt out at random"
    own = [areas(scores_NK[clients_N == c], classes, labels_N[clients_N == c]) for c in clients_N.unique()]
    return Score(
        recovers="labels",
        measure="AUC, one class against the rest",
        value=bootstrap_mean(parts_N, clients_N),
        baseline=dealt,
        baselines=(Baseline(name=dealt, value=bootstrap_mean(guess_N, clients_N)),),
        gain=Gain(paired_gain(parts_N, guess_N, clients_N).interval, chance.p_value),
        # The client whose records are told apart best; a client of one class has no area.
        worst_record=max((of_client.mean for of_client in own if of_client is not None), default=float(parts_N.mean())),
        threshold=threshold,
        share_recovered=float((beyond_N >= threshold).double().mean()),
        others={},
        fit=None,
        pictures=(),
    )
