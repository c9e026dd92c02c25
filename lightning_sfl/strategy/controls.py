"""Power, clock and bandwidth of simulated devices: allocated like cuts and batch sizes, without effect on training."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sfl.allocation import Allocation

NAMES = ("transmit_power_watt", "clock_hz", "bandwidth_hz")


class SimulatedControls:
    """What every registered client was given, by name, and from which round on."""

    def __init__(self) -> None:
        self._now: dict[str, list[float]] = {}
        self._later: dict[str, list[float]] = {}
        self._round = 0

    def plan(self, allocation: Allocation, round: int) -> None:
        """Give clients something from a round on that has not begun; what is None stays as it is."""
        if round > self._round:
            self._now, self._later, self._round = self._now | self._later, {}, round
        given = {name: getattr(allocation, name) for name in NAMES}
        self._later |= {
            name: [float(value) for value in values] for name, values in given.items() if values is not None
        }

    def at(self, round: int) -> Mapping[str, Sequence[float]]:
        """What clients have in a round, by name; what nobody was given is left out."""
        return self._now | self._later if round >= self._round else self._now

    def state_dict(self) -> dict[str, Any]:
        """As plain Python, for checkpoints."""
        return {"now": self._now, "later": self._later, "round": self._round}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._now, self._later, self._round = dict(state["now"]), dict(state["later"]), state["round"]
