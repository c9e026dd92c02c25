"""What a client can see of a server that does not train what it says: two detectors, on the answers that it gets."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

SPLIT_GUARD = "SplitGuard"
SCRUTINIZER = "Gradients Scrutinizer"
FAKE_SHARE = 0.1
"""How many batches have false labels (Erdogan et al. 2021)."""
_FIRST = 20
"""So many answers are not judged: an honest server has not learned anything yet."""
_LEAST_FAKES = 2
_SCORES, _LEAST_SCORE = 3, 0.5
"""The mean of the last so many scores must reach this."""
_GAPS, _LEAST_GAP = 20, 0.1
"""The mean of the last so many gaps must reach this."""


def split_guard_score(fake_D: Tensor, first_D: Tensor, second_D: Tensor) -> float:
    """How differently a server answers false labels: near 1 an honest one, low one that does not look at labels.

    Erdogan et al. 2021, "SplitGuard": with F, R the answers to batches with false and true labels and R1, R2 two halves
    of R, d the difference of the lengths of two means and θ the angle between them,
    S = (θ(F, R)·d(F, R) − θ(R1, R2)·d(R1, R2)) / (d(F, R) + d(R1, R2)), and the score is σ(α·S)^β. Reconstruction:
    α = 5, β = 2, angles in radians, and of every answer the sum over its records, since batches differ in size and
    order.

    Args:
        fake_D: Mean answer to batches with false labels.
        first_D: Mean answer to one half of those with true labels.
        second_D: Mean answer to the other half.
    """
    between, angle = _apart(fake_D, (first_D + second_D) / 2)
    within, own_angle = _apart(first_D, second_D)
    total = between + within
    found = (angle * between - own_angle * within) / total if total > 0 else 0.0
    return (1 / (1 + math.exp(-5 * found))) ** 2


def _apart(one_D: Tensor, other_D: Tensor) -> tuple[float, float]:
    """The difference of two lengths, and the angle between two vectors in radians."""
    one_D, other_D = one_D.double(), other_D.double()
    cosine = (normalize(one_D, dim=0) * normalize(other_D, dim=0)).sum().clamp(-1, 1)
    return float((one_D.norm() - other_D.norm()).abs()), float(cosine.arccos())


def label_gap(gradient_BD: Tensor, labels_B: Tensor) -> float | None:
    """How much more alike the answers to records of one label are than to records of two.

    Fu et al. 2023, "Focusing on Pinocchio's Nose" (Gradients Scrutinizer): the mean cosine among gradients of the same
    label minus that among gradients of different labels, which an honest classifier's loss makes large.

    Args:
        gradient_BD: The answer, a row for each record.
        labels_B: Their true labels.

    Returns:
        The gap; None where a batch has no two records of one label, or no two of different labels.
    """
    unit_BD = normalize(gradient_BD.double(), dim=1)
    cosine_BB = unit_BD @ unit_BD.T
    same_BB = labels_B[:, None] == labels_B[None, :]
    other_BB = ~same_BB
    same_BB = same_BB & ~torch.eye(len(labels_B), dtype=torch.bool, device=same_BB.device)
    if not same_BB.any() or not other_BB.any():
        return None
    return float(cosine_BB[same_BB].mean() - cosine_BB[other_BB].mean())


class Watch:
    """One client's watch over the answers that it gets.

    Args:
        seed: Seeds which batches have false labels, and which labels.

    Attributes:
        seen: How many answers it has seen.
        guard_scores: SplitGuard's score after every batch with false labels, once there are a few.
        gaps: The Scrutinizer's gap of every batch with true labels that has one.
        alarms: After how many answers each detector first raised the alarm, by its name.
    """

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)
        self._true_B: Tensor | None = None
        self._is_fake = False
        self._classes = 2
        self._sums: dict[str, Tensor] = {}
        self._counts = {"fake": 0, "first": 0, "second": 0}
        self.seen = 0
        self.guard_scores: list[float] = []
        self.gaps: list[float] = []
        self.alarms: dict[str, int] = {}

    def labels_to_send(self, labels_B: Tensor) -> Tensor:
        """The labels of the next batch, or now and then false ones: every label replaced by another."""
        self._true_B = labels_B
        self._classes = max(self._classes, int(labels_B.max()) + 1)
        self._is_fake = bool(torch.rand((), generator=self._draw) < FAKE_SHARE)
        if not self._is_fake:
            return labels_B
        shift_B = torch.randint(1, self._classes, labels_B.shape, generator=self._draw).to(labels_B.device)
        return (labels_B + shift_B) % self._classes

    def saw(self, gradient_BD: Tensor) -> bool:
        """Look at an answer, a row for each record; whether it is one to false labels, not to be learned from."""
        self.seen += 1
        if self._true_B is None:
            return False  # records without labels: there is nothing to compare
        if self.seen > _FIRST:
            halves = ("first", "second")
            kind = "fake" if self._is_fake else halves[(self._counts["first"] + self._counts["second"]) % 2]
            self._counts[kind] += 1
            self._sums[kind] = self._sums.get(kind, torch.zeros(())) + gradient_BD.sum(0).float()
            self._judge(gradient_BD, self._true_B)
        return self._is_fake

    def _judge(self, gradient_BD: Tensor, labels_B: Tensor) -> None:
        if not self._is_fake:
            gap = label_gap(gradient_BD, labels_B)
            self.gaps += [] if gap is None else [gap]
            self._alarm(SCRUTINIZER, self.gaps, _GAPS, _LEAST_GAP)
        elif min(self._counts.values()) >= _LEAST_FAKES:
            means = {kind: self._sums[kind] / count for kind, count in self._counts.items()}
            self.guard_scores.append(split_guard_score(means["fake"], means["first"], means["second"]))
            self._alarm(SPLIT_GUARD, self.guard_scores, _SCORES, _LEAST_SCORE)

    def _alarm(self, name: str, values: Sequence[float], window: int, least: float) -> None:
        if len(values) >= window and sum(values[-window:]) / window < least:
            self.alarms.setdefault(name, self.seen)


def summary(watches: Mapping[int, Watch]) -> str:
    """What the clients' detectors say, in a line."""
    said = []
    for name in (SPLIT_GUARD, SCRUTINIZER):
        raised = sorted(watch.alarms[name] for watch in watches.values() if name in watch.alarms)
        after = f", first after {raised[0]} answers" if raised else ""
        said.append(f"{name} would have warned {len(raised)} of {len(watches)} clients{after}")
    most = max(watch.seen for watch in watches.values())
    return f"{'; '.join(said)} (of up to {most} that each was sent)"
