"""Labels from the gradient of the last layer, and from updates of several steps.

With cross entropy, the last layer's bias gradient is the mean of p − y over the batch and its weight gradient the mean
of (p − y)·hᵀ, where p are the victim's probabilities, y its labels and h what enters the layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def idlg(weight_KF: Tensor) -> int:
    """The label of a batch of one record: exact where the features h are not negative and not all zero.

    Zhao et al. 2020, "iDLG: Improved Deep Leakage from Gradients": only the label's row of (p − y)·hᵀ is
    negative, since p − y is below 0 there alone.
    """
    return int(weight_KF.double().sum(1).argmin())


def idlg_by_bias(bias_K: Tensor) -> int:
    """The label of a batch of one record, whatever the sign of its features: p − y is below 0 there alone."""
    return int(bias_K.argmin())


def unique_labels(weight_KF: Tensor, records: int) -> Tensor:
    """The labels of a batch in which no class appears twice, sorted, int64 (B,).

    Yin et al. 2021, "See through Gradients: Image Batch Recovery via GradInversion": the classes whose
    rows have the most negative entry. Features must not be negative.
    """
    classes = len(weight_KF)
    if not 1 <= records <= classes:
        raise ValueError(f"records={records} is not accepted: {classes} classes hold 1 to {classes} unique labels.")
    return weight_KF.min(1).values.topk(records, largest=False).indices.sort().values


def counts_by_bias(bias_K: Tensor, mean_probability_K: Tensor, records: int) -> Tensor:
    """How often every class is in a batch, from the last bias and the victim's answers to guessed inputs, int64 (K,).

    The bias gradient is (Σp − counts) / B, so counts = Σp − B·gradient: exact where Σp is known to within half a
    record. The attacker estimates the mean of p by what the model answers to inputs of its own (as Geng et al. 2021,
    "Towards General Deep Leakage in Federated Learning", do; from memory of the paper: a reconstruction). A victim
    that has hardly been trained answers the same to everything.

    Args:
        bias_K: Gradient of the last bias, of the mean loss.
        mean_probability_K: The attacker's estimate of the victim's mean probabilities on the batch.
        records: B, over all steps where the gradient is a mean over several.
    """
    _check_records(records)
    return rounded_counts(records * (mean_probability_K.double() - bias_K.double()).cpu(), records)


def rounded_counts(raw_K: Tensor, records: int) -> Tensor:
    """The counts nearest to these among those that are whole, not negative and sum to ``records``.

    Greedy by margin: each record goes to the class that falls shortest of its raw count, which is exact for separable
    convex distances.
    """
    counts_K = torch.zeros_like(raw_K, dtype=torch.int64)
    for _ in range(records):
        counts_K[int((raw_K - counts_K).argmax())] += 1
    return counts_K


def labels_of(counts_K: Tensor) -> Tensor:
    """A batch's labels in order, int64 (B,)."""
    return torch.repeat_interleave(torch.arange(len(counts_K)), counts_K.cpu())


def dealt(labels_B: Tensor, sizes: Sequence[int]) -> Tensor:
    """A round's labels shared out over its steps, those of the first step first, int64 (B,).

    Which step a record was in does not show in counts. Sorted labels are dealt like cards, so that every step holds
    the classes about as the round does.
    """
    turns = [step for turn in range(max(sizes)) for step, size in enumerate(sizes) if turn < size]
    order = torch.tensor(turns, device=labels_B.device).argsort(stable=True)
    return labels_B.sort().values[order]


def counts_by_impact(weight_KF: Tensor, records: int, probes: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
    """Counts where there is no bias: row sums fall by about one impact for each record of a class, int64 (K,).

    Wainakh et al. 2022, "User-Level Label Leakage from Gradients in Federated Learning" (LLG), from memory of the
    paper: a class whose row sum is negative has a record; then records are given out one by one to the most negative
    row sum, whose impact is taken off that same row each time. With probes (weight gradients of batches of one class
    and that class, which the attacker makes from auxiliary inputs), impact and offsets are measured instead of
    estimated (LLG+).

    Args:
        weight_KF: Gradient of the last weight, of the mean loss. Features must not be negative.
        records: B.
        probes: (gradient (K, F), class) of as many batches as there are, int64 scalars for classes.
    """
    _check_records(records)
    sums_K = weight_KF.double().sum(1).cpu()
    offset_K = torch.zeros_like(sums_K)
    # LLG: the impact of one record is the mean of what is negative, a little enlarged by the other classes' pull.
    impact = float(sums_K.clamp(max=0).sum()) * (1 + 1 / len(sums_K)) / records
    if probes:
        rows_PK = torch.stack([gradient.double().sum(1).cpu() for gradient, _ in probes])
        classes_P = torch.stack([label for _, label in probes]).cpu()
        own_PK = one_hot(classes_P, len(sums_K)).bool()
        offset_K = torch.stack(
            [
                row[~own].mean() if (~own).any() else row.new_zeros(())
                for row, own in zip(rows_PK.T, own_PK.T, strict=True)
            ]
        )
        # A batch of one class moves its own row by B impacts, as a share of B records.
        impact = float((rows_PK - offset_K)[own_PK].mean()) / records
    left_K, counts_K = sums_K - offset_K, torch.zeros(len(sums_K), dtype=torch.int64)
    if not probes:
        for place in torch.nonzero(sums_K < 0).flatten().tolist()[:records]:
            counts_K[place] += 1
            left_K[place] -= impact
    while int(counts_K.sum()) < records:
        # The row is looked up anew before each subtraction: with one found earlier, every record goes to one class.
        place = int(left_K.argmin())
        counts_K[place] += 1
        left_K[place] -= impact
    return counts_K


def mean_probability(scores_BK: Tensor) -> Tensor:
    """The victim's mean probabilities on the attacker's inputs, (K,)."""
    return scores_BK.double().softmax(1).mean(0)


def _check_records(records: int) -> None:
    if records < 1:
        raise ValueError(f"records={records} is not accepted: give an integer of at least 1.")
