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

_LARGEST_SUM = 0.2
"""Of a row's numbers, relative to that of their sizes; without any codec it is 0, at 8 bits well below."""
_LEAST_SHARE = 0.4
"""Of the negative number in the sum of the sizes; without any codec it is one half."""
_MOST_ROWS = 0.9


def are_of_logits(rows_ND: Tensor) -> bool:
    """Whether these look like gradients of cross-entropy with respect to logits, p - y with a one-hot y.

    A row's numbers sum to zero, and one of them is as large as all others together, and below zero. Rows of zeros are
    those of records whose class is certain.
    """
    rows_ND = rows_ND[rows_ND.any(dim=1)]
    if rows_ND.shape[1] < 2 or not len(rows_ND):
        return False
    sizes_N = rows_ND.abs().sum(dim=1)
    alike_N = (rows_ND.sum(dim=1).abs() <= _LARGEST_SUM * sizes_N) & (-rows_ND.amin(dim=1) >= _LEAST_SHARE * sizes_N)
    return bool(alike_N.double().mean() >= _MOST_ROWS)


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
            raise UnavailableError(
                "what crossed is no gradient of logits, of which one number is below zero and as large as all others."
            )
        found = tuple(
            GuessedLabels(number=batch.number, labels_B=batch.rows_BD.argmin(dim=1).cpu(), in_order=True)
            for batch in batches
        )
        progress(1.0)
        return Findings(batches=found, budget=f"{self.budget}, {len(batches)} batches")
