"""Where every client cuts in the round at hand, and from later ones on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.planned import Planned


class MovingCuts:
    """The cuts of a run.

    Args:
        given: Where clients cut at the start.
    """

    def __init__(self, given: Cuts) -> None:
        self._given = given
        self._planned = Planned(given)

    @property
    def now(self) -> Cuts:
        """Where clients cut now."""
        return self._planned.now

    @now.setter
    def now(self, cuts: Cuts) -> None:
        self._planned.now = cuts

    @property
    def last(self) -> Cuts:
        """Where clients are to cut in the end."""
        return self._planned.last

    def plan(self, cuts: Cuts, round: int) -> None:
        """Let clients cut elsewhere from a round on."""
        self._planned.plan(cuts, round)

    def due(self, round: int) -> Cuts | None:
        """Where clients are to cut in a round that begins, if they were told anything."""
        return self._planned.at(round) if any(at <= round for at, _ in self._planned.waiting()) else None

    def move(self, round: int) -> None:
        """Let them cut there from now on."""
        self._planned.reach(round)

    @property
    def names(self) -> list[str]:
        """All cuts in use now or later."""
        return sorted({name for cuts in (self.now, *self._planned.later) for name in cuts.names})

    def state_dict(self) -> dict[str, Any]:
        """As plain Python, for checkpoints."""
        return {"given_cuts": dataclasses.asdict(self._given), "cuts": dataclasses.asdict(self.now), **self.planned()}

    def planned(self) -> dict[str, Any]:
        """The part of the state that says what is planned; empty if nothing is."""
        waiting = [(round, dataclasses.asdict(cuts)) for round, cuts in self._planned.waiting()]
        return {"planned_cuts": waiting} if waiting else {}

    def go_on(self, state: Mapping[str, Any]) -> bool:
        """Go on from a state, unless this run was given other cuts than the one that saved it; says whether it was not.

        What was planned since then stays planned.
        """
        if Cuts(**state["given_cuts"]) != self._given and self.now.default is not None:
            return False
        self.now = Cuts(**state["cuts"])
        if not self._planned.later:
            for round, cuts in state.get("planned_cuts", ()):
                self.plan(Cuts(**cuts), round)
        return True
