"""What attacks on labels have in common."""

import abc
import dataclasses
from enum import StrEnum
from typing import ClassVar

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.reconstruction import Progress
from attacks.threat import ThreatModel


class LabelVictim(StrEnum):
    """A victim that an attack on labels must succeed on."""

    ONE_LOGIT = "one logit, unsure of a rare class"
    LOGITS = "logits that cross"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelAttack(abc.ABC):
    """An attack on the label of every record; its control is a victim whose gradients give labels away exactly.

    It reads no message of labels: that would be no attack.

    Attributes:
        name: See :class:`attacks.attack.Attack`.
        needs: See there.
        victim: Whom it must succeed on.
    """

    name: ClassVar[str]
    needs: ClassVar[ThreatModel]
    victim: ClassVar[LabelVictim] = LabelVictim.ONE_LOGIT

    @property
    @abc.abstractmethod
    def budget(self) -> str:
        """What it spends, in a line."""

    @abc.abstractmethod
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
