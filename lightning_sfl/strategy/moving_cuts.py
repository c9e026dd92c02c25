"""Where every client cuts in the round at hand, and from a later one on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning_sfl.strategy.cuts import Cuts


class MovingCuts:
    """The cuts of a run.

    Args:
        given: Where clients cut at the start.

    Attributes:
        now: Where they cut now.
        later: Where they are to cut from a later round on; None if nothing is to move.
    """

    def __init__(self, given: Cuts) -> None:
        self.now = self._given = given
        self.later: Cuts | None = None
        self._round = 0

    def plan(self, cuts: Cuts, round: int) -> None:
        """Let clients cut elsewhere from a round on."""
        self.later, self._round = cuts, round

    def due(self, round: int) -> Cuts | None:
        """Where clients are to cut in a round that begins, if it is elsewhere."""
        return self.later if round >= self._round else None

    def move(self) -> None:
        """Let them cut there from now on."""
        assert self.later is not None
        self.now, self.later = self.later, None

    @property
    def names(self) -> list[str]:
        """All cuts in use now or later."""
        return sorted({*self.now.names, *([] if self.later is None else self.later.names)})

    def state_dict(self) -> dict[str, Any]:
        """As plain Python, for checkpoints."""
        return {
            "given_cuts": dataclasses.asdict(self._given),
            "cuts": dataclasses.asdict(self.now),
            **self.planned(),
        }

    def planned(self) -> dict[str, Any]:
        """The part of the state that says what is planned."""
        return {
            "next_cuts": None if self.later is None else dataclasses.asdict(self.later),
            "next_round": self._round,
        }

    def go_on(self, state: Mapping[str, Any]) -> bool:
        """Go on from a state, unless this run was given other cuts than the one that saved it; says whether it was not.

        What was planned since then stays planned.
        """
        if Cuts(**state["given_cuts"]) != self._given and self.now.default is not None:
            return False
        self.now = Cuts(**state["cuts"])
        if self.later is None and state["next_cuts"] is not None:
            self.plan(Cuts(**state["next_cuts"]), state["next_round"])
        return True
