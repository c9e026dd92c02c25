"""Power, clock and bandwidth of simulated devices: allocated like cuts and batch sizes, without effect on training."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sfl.allocation import Allocation
from lightning_sfl.strategy.planned import Planned

NAMES = ("transmit_power_watt", "clock_hz", "bandwidth_hz")


class SimulatedControls:
    """What every registered client was given, by name, and from which round on."""

    def __init__(self) -> None:
        self._given: Planned[dict[str, list[float]]] = Planned({})

    def plan(self, allocation: Allocation, round: int) -> None:
        """Give clients something from a round on that has not begun; what is None stays as it is."""
        given = {name: getattr(allocation, name) for name in NAMES}
        new = {name: [float(value) for value in values] for name, values in given.items() if values is not None}
        if new:
            self._given.plan(self._given.last | new, round)

    @property
    def last(self) -> Mapping[str, Sequence[float]]:
        """What clients have in the end, by name; what nobody was given is left out."""
        return self._given.last

    def at(self, round: int) -> Mapping[str, Sequence[float]]:
        """What clients have in a round that has begun, by name; what nobody was given is left out."""
        return self._given.reach(round)

    def state_dict(self) -> dict[str, Any]:
        """As plain Python, for checkpoints."""
        return self._given.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._given.load_state_dict(state)
