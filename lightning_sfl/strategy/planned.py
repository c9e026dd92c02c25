"""What holds from which round on."""

import bisect
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Planned(Generic[Value]):
    """A value that changes with rounds to come. Several changes can be waiting, each for its own round.

    Args:
        now: What holds until something is planned.
    """

    def __init__(self, now: Value) -> None:
        self.now = now
        self._rounds: list[int] = []
        self._values: list[Value] = []

    @property
    def later(self) -> tuple[Value, ...]:
        """What is planned, in the order in which it comes."""
        return tuple(self._values)

    @property
    def last(self) -> Value:
        """What holds in the end."""
        return self._values[-1] if self._values else self.now

    def plan(self, value: Value, round: int) -> None:
        """Let a value hold from a round on that has not begun; what was planned from there on is forgotten."""
        kept = bisect.bisect_left(self._rounds, round)
        self._rounds[kept:], self._values[kept:] = [round], [value]

    def at(self, round: int) -> Value:
        """What holds in a round."""
        reached = bisect.bisect_right(self._rounds, round)
        return self._values[reached - 1] if reached else self.now

    def reach(self, round: int) -> Value:
        """What holds in a round that has begun; what held before is forgotten."""
        self.now = self.at(round)
        reached = bisect.bisect_right(self._rounds, round)
        del self._rounds[:reached], self._values[:reached]
        return self.now

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints; values as they are."""
        return {"now": self.now, "later": self.waiting()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.now, self._rounds, self._values = state["now"], [], []
        for round, value in state["later"]:
            self.plan(value, round)

    def waiting(self) -> list[tuple[int, Value]]:
        """What is planned, each with its round."""
        return list(zip(self._rounds, self._values, strict=True))
