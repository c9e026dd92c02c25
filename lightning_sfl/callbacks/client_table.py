"""What a run has cost every client that took part, as a table."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lightning_sfl.world.arrays import FloatArray, IntArray

COLUMNS = ("client", "delay_s", "energy_joule", "uplink_bytes", "downlink_bytes", "peak_memory_bytes")


@dataclasses.dataclass
class ClientRow:
    """One client's sums; its memory is the most that it needed."""

    delay_s: float = 0.0
    energy_joule: float = 0.0
    uplink_bytes: float = 0.0
    downlink_bytes: float = 0.0
    peak_memory_bytes: float = 0.0


class ClientTable:
    """Adds up, by client."""

    def __init__(self) -> None:
        self._rows: dict[int, ClientRow] = {}

    def add(
        self,
        clients: IntArray,
        *,
        delay_s: FloatArray,
        joule: FloatArray,
        uplink_bit: FloatArray,
        downlink_bit: FloatArray,
        memory_byte: FloatArray,
    ) -> None:
        """Add what something has cost these clients, entry by entry."""
        for place, client in enumerate(clients.tolist()):
            row = self._rows.setdefault(client, ClientRow())
            row.delay_s += float(delay_s[place])
            row.energy_joule += float(joule[place])
            row.uplink_bytes += float(uplink_bit[place]) / 8
            row.downlink_bytes += float(downlink_bit[place]) / 8
            row.peak_memory_bytes = max(row.peak_memory_bytes, float(memory_byte[place]))

    def rows(self) -> list[list[float]]:
        """A row per client that took part, by its number, in the order of ``COLUMNS``."""
        return [[client, *dataclasses.astuple(row)] for client, row in sorted(self._rows.items())]

    @property
    def total_bytes(self) -> float:
        """What all clients sent and received."""
        return math.fsum(row.uplink_bytes + row.downlink_bytes for row in self._rows.values())

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain Python."""
        return {"rows": self.rows()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._rows = {int(client): ClientRow(*values) for client, *values in state["rows"]}
