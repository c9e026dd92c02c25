"""Labels from where gradients point."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from typing_extensions import override

from attacks.attack import Findings, ScoredLabels
from attacks.attacker import Attacker
from attacks.labels.label_attack import LabelAttack
from attacks.labels.rows import OF_GRADIENTS, gradient_rows, joined, parted, references
from attacks.reconstruction import Progress
from attacks.threat import Knowledge, ThreatModel

WITH_KNOWN_LABELS = dataclasses.replace(
    OF_GRADIENTS,
    name="who reads gradients at a cut and knows a few labels",
    description="Who sees the gradients that cross, and knows the class of one of the records of each class.",
    knows=frozenset({Knowledge.KNOWN_LABELS}),
)


def cosines(rows_ND: Tensor, references_D: Mapping[int, Tensor]) -> Tensor:
    """The cosine of every row with the reference of every class, (N, K). Of a row of zeros it is 0."""
    columns = [
        cosine_similarity(rows_ND, reference_D[None], dim=1, eps=1e-300) for reference_D in references_D.values()
    ]
    return torch.stack(columns, dim=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientDirection(LabelAttack):
    """The cosine with the gradient of one known record of a class (Li et al. 2022, direction attack).

    Behind one logit a gradient is (p - y) times a vector that hardly depends on the record, so its sign is the label.
    With more classes each is told from the rest by its own known record.
    """

    name: ClassVar[str] = "gradient direction"
    needs: ClassVar[ThreatModel] = WITH_KNOWN_LABELS

    @property
    @override
    def budget(self) -> str:
        return "closed form, one known record per class"

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        batches = gradient_rows(attacker)
        known = references(attacker, batches)
        scores_NK = cosines(joined(batches), known)
        progress(1.0)
        found = tuple(
            ScoredLabels(number=batch.number, scores_BK=part, classes=tuple(known))
            for batch, part in zip(batches, parted(scores_NK, batches), strict=True)
        )
        return Findings(batches=found, budget=f"{self.budget}, {len(known)} classes, {len(batches)} batches")
