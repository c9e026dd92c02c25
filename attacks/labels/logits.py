"""Labels from gradients of logits."""

import dataclasses
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from attacks.attack import Findings, GuessedLabels
from attacks.attacker import Attacker, UnavailableError
from attacks.labels.label_attack import LabelAttack, LabelVictim
from attacks.labels.rows import OF_GRADIENTS, gradient_rows, joined
from attacks.reconstruction import Progress
from attacks.threat import ThreatModel

_LARGEST_SUM = 1e-2
"""Of a row, relative to its numbers' sizes: 16-bit numbers are rounded by up to 4e-3 of them."""


def are_of_logits(rows_ND: Tensor) -> bool:
    """Whether these look like gradients of cross-entropy with respect to logits, p - y with a one-hot y.

    Every row has one negative number at most, and its numbers sum to zero. A row of zeros is that of a record whose
    class is certain.
    """
    if rows_ND.shape[1] < 2 or not rows_ND.any():
        return False
    sums_N, sizes_N = rows_ND.sum(dim=1).abs(), rows_ND.abs().sum(dim=1)
    return bool(((rows_ND < 0).sum(dim=1) <= 1).all()) and bool((sums_N <= _LARGEST_SUM * sizes_N).all())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitGradients(LabelAttack):
    """Where logits cross, their gradient is softmax minus one-hot: the negative number stands at the label.

    The observation of Zhao et al. 2020 (iDLG), here for every record by itself and without any weights.
    """

    name: ClassVar[str] = "signs of logit gradients"
    needs: ClassVar[ThreatModel] = OF_GRADIENTS
    victim: ClassVar[LabelVictim] = LabelVictim.LOGITS

    @property
    @override
    def budget(self) -> str:
        return "closed form"

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        batches = gradient_rows(attacker)
        if not are_of_logits(joined(batches)):
            raise UnavailableError("what crossed is no gradient of logits: those have one negative number per record.")
        found = tuple(
            GuessedLabels(number=batch.number, labels_B=batch.rows_BD.argmin(dim=1).cpu(), in_order=True)
            for batch in batches
        )
        progress(1.0)
        return Findings(batches=found, budget=f"{self.budget}, {len(batches)} batches")
