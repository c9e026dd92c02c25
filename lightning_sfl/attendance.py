"""Who is there: a hook that decides which participants are lost, and when."""

from enum import StrEnum
from typing import Protocol


class Stage(StrEnum):
    """When a participant is lost. It stays lost for the rest of its round; in a later one it may take part again.

    ``before_forward``: it does nothing in the step. ``after_forward``: its smashed data were sent, and the server does
    not use them. ``before_gradient``: the server trains on them, and the cut gradient does not come back.
    ``before_upload``: it has trained to the end of the round, and its update is lost, or too late to count.
    """

    BEFORE_FORWARD = "before_forward"
    AFTER_FORWARD = "after_forward"
    BEFORE_GRADIENT = "before_gradient"
    BEFORE_UPLOAD = "before_upload"


class Attendance(Protocol):
    """Decides who is lost. It is asked before every stage, and must answer the same when a run is resumed."""

    def is_lost(self, *, client: int, stage: Stage, round: int, step: int) -> bool:
        """Whether a participant is lost at this stage of this step."""
        ...


class EverybodyIsThere:
    """Nobody is ever lost."""

    def is_lost(self, *, client: int, stage: Stage, round: int, step: int) -> bool:
        """See :meth:`Attendance.is_lost`."""
        return False
