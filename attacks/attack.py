"""What an attack is, and what it brings back."""

import dataclasses
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from attacks.attacker import Attacker
from attacks.reconstruction import Progress
from attacks.threat import ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class RebuiltBatch:
    """Images made of one message.

    Attributes:
        number: The message, whose truth scores them.
        images_BCHW: As the model is given them.
        in_order: Whether they are in the order of the batch; else they are matched to it for scoring.
        fit: How far what was sent is from what these images would send: 0 explains it, 1 does not at all; None for
            attacks that have no such measure.
    """

    number: int
    images_BCHW: Tensor
    in_order: bool
    fit: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuessedLabels:
    """Labels made of one message.

    Attributes:
        number: The message, whose truth scores them.
        labels_B: One class per record.
        in_order: Whether they are in the order of the batch; else only how often each class comes counts.
    """

    number: int
    labels_B: Tensor
    in_order: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredLabels:
    """How likely records of one message are of a class, in the order of the batch; only their order is read.

    Attributes:
        number: The message, whose truth scores them.
        scores_BK: Higher for records that are likelier of the column's class.
        classes: The class of every column; None where one column tells classes apart and does not say which is which.
    """

    number: int
    scores_BK: Tensor
    classes: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedCandidates:
    """How likely each of a pool of records is to be among those that one message stems from.

    Attributes:
        number: The message, whose truth scores them.
        round: The round of the pool.
        scores_N: One per candidate, in the order of the pool; higher is more likely.
    """

    number: int
    round: int
    scores_N: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What an attack brings back.

    Attributes:
        batches: Of every message that it attacked.
        budget: What it spent, in a line: iterations, starts, samples, queries, and what it chose for itself.
        bound: Why no attack on these messages can bring anything back, where that is so; "" else.
        told: Records whose labels the attacker was told, as message, place in its batch and class; the audit fills it
            in, and credits nobody with them.
    """

    batches: (
        tuple[RebuiltBatch, ...] | tuple[GuessedLabels, ...] | tuple[ScoredLabels, ...] | tuple[RankedCandidates, ...]
    )
    budget: str
    bound: str = ""
    told: tuple[tuple[int, int, int], ...] = ()


@runtime_checkable
class Attack(Protocol):
    """An attack on a message log.

    Attributes:
        name: Its name in reports.
        needs: What it must be granted; it is handed nothing else.
    """

    name: ClassVar[str]
    needs: ClassVar[ThreatModel]

    @property
    def budget(self) -> str:
        """What it may spend at most on one batch, in a line."""
        ...

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """Attack what is handed over.

        Raises:
            UnavailableError: The log or the audit does not hold what it needs.
        """
        ...
