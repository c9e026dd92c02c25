"""How well an attack recovered labels, against guesses without the messages."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.attack import GuessedLabels
from attacks.attacker import KnownLabels, Records
from attacks.audit.score import Score
from attacks.audit.truth import Truth
from attacks.statistics.interval import bootstrap_mean, paired_gain
from lightning_sfl.report.leakage import Baseline


def score_labels(
    batches: Sequence[GuessedLabels],
    truth: Truth,
    auxiliary: Records | None,
    known: KnownLabels,
    *,
    threshold: float,
) -> Score:
    """Score guessed labels: 1 for every record whose label is right; out of order, the share of the batch's labels.

    Records whose classes were known do not count.

    Raises:
        ValueError: The records have no class labels.
    """
    true = [labels_of(truth.of(batch.number)) for batch in batches]
    if known:
        places = [unknown_places(b.number, truth, known) for b in batches]
        left = [(b, t, kept) for b, t, kept in zip(batches, true, places, strict=True) if len(kept)]
        batches = [dataclasses.replace(b, labels_B=b.labels_B.cpu()[kept]) for b, _, kept in left]
        true = [t[kept] for _, t, kept in left]
    clients_N = torch.cat([torch.full((len(t),), truth.client(b.number)) for b, t in zip(batches, true, strict=True)])
    classes = 1 + max(int(labels.max()) for labels in [*true, *(batch.labels_B for batch in batches)])
    frequent = int(torch.cat(true).mode().values)
    aux = None if auxiliary is None else auxiliary.labels_B
    chances = torch.ones(classes) if aux is None else torch.bincount(aux, minlength=classes).double()
    right, majority, proportions = [], [], []
    for batch, labels in zip(batches, true, strict=True):
        right.append(_right(batch.labels_B.cpu(), labels, in_order=batch.in_order))
        majority.append(_right(torch.full_like(labels, frequent), labels, in_order=batch.in_order))
        proportions.append(_right(_in_proportion(chances, len(labels)), labels, in_order=batch.in_order))
    right_N = torch.cat(right)
    drawn = "classes in the proportions of auxiliary records" if aux is not None else "all classes alike"
    knowing = "the most frequent class of the records under attack"
    guesses = {drawn: torch.cat(proportions), knowing: torch.cat(majority)}
    if aux is not None:
        usual = int(aux.mode().values)
        guesses["the most frequent class of auxiliary records"] = torch.cat(
            [_right(torch.full_like(t, usual), t, in_order=b.in_order) for b, t in zip(batches, true, strict=True)]
        )
    best = max((name for name in guesses if name != knowing), key=lambda name: float(guesses[name].mean()))
    return Score(
        recovers="labels",
        measure="labels right",
        value=bootstrap_mean(right_N, clients_N),
        baseline=best,
        baselines=tuple(
            Baseline(name=name, value=bootstrap_mean(v, clients_N), uses_truth=name == knowing)
            for name, v in guesses.items()
        ),
        gain=paired_gain(right_N, guesses[best], clients_N),
        # One right label says little: of labels it is the client that lost most.
        worst_record=max(float(right_N[clients_N == client].mean()) for client in clients_N.unique()),
        threshold=threshold,
        share_recovered=float((right_N >= threshold).double().mean()),
        others={},
        fit=None,
        pictures=(),
    )


def unknown_places(number: int, truth: Truth, known: KnownLabels) -> Tensor:
    """Places in a message's batch of the records whose classes an attack was not told."""
    told = truth.known_among(number, known)
    return (~told).nonzero().flatten()


def labels_of(records: Records) -> Tensor:
    """The classes of records.

    Raises:
        ValueError: They have none.
    """
    if records.labels_B is None:
        raise ValueError("The records have no class labels to score guesses with.")
    return records.labels_B.cpu()


def _in_proportion(chances_K: Tensor, count: int) -> Tensor:
    """So many labels in these proportions, by the largest remainders."""
    shares = chances_K.double() / chances_K.sum() * count
    counts = shares.floor().long()
    for place in (shares - counts).argsort(descending=True, stable=True)[: count - int(counts.sum())].tolist():
        counts[place] += 1
    return torch.arange(len(chances_K)).repeat_interleave(counts)


def _right(guess_B: Tensor, true_B: Tensor, *, in_order: bool) -> Tensor:
    """Per record 1 where the label is right; out of order, the share of the batch's labels that the guess covers."""
    if in_order:
        return (guess_B == true_B).double()
    classes = int(max(guess_B.max(), true_B.max())) + 1
    found, wanted = (torch.bincount(labels, minlength=classes) for labels in (guess_B, true_B))
    share = float(torch.minimum(found, wanted).sum()) / len(true_B)
    return torch.full((len(true_B),), share, dtype=torch.float64)
