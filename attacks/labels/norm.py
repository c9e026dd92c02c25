"""Labels from how long gradients are."""

import dataclasses
from typing import ClassVar

from typing_extensions import override

from attacks.attack import Findings, ScoredLabels
from attacks.attacker import Attacker
from attacks.labels.label_attack import LabelAttack
from attacks.labels.rows import OF_GRADIENTS, gradient_rows
from attacks.reconstruction import Progress
from attacks.threat import ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientNorm(LabelAttack):
    """The norm of a record's gradient tells a rare class from a frequent one (Li et al. 2022, norm attack).

    The model is less sure of the rare class, so its gradients are longer. Nothing is known besides; which class is
    which is left open, so an order the other way round counts too.
    """

    name: ClassVar[str] = "gradient norm"
    needs: ClassVar[ThreatModel] = OF_GRADIENTS

    @property
    @override
    def budget(self) -> str:
        return "closed form, one norm per record"

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        batches = gradient_rows(attacker)
        found = tuple(
            ScoredLabels(number=batch.number, scores_BK=batch.rows_BD.norm(dim=1, keepdim=True), classes=None)
            for batch in batches
        )
        progress(1.0)
        return Findings(batches=found, budget=f"{self.budget}, {len(batches)} batches")
