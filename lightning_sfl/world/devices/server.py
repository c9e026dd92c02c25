"""The server: how fast it computes, what that takes, and whether clients wait for each other there."""

import dataclasses
import math
from typing import Literal, get_args

from lightning_sfl.world.checks import ACCEPTED, check_number

Works = Literal["serial", "parallel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """The server that holds the rest of the model.

    Args:
        clock_hz: Clock, above 100 kHz, at most 10 GHz.
        flop_per_cycle: Floating-point operations per clock cycle, above 0; a multiply-accumulate counts as 2.
        efficiency: Share of clock times FLOP per cycle that is reached, above 0, at most 1.
        watt_per_cubic_hz: Chip coefficient G: computing at f takes G·f³. NaN: energy is not modelled.
        transmit_power_watt: Transmit power towards a client, at most 40 W. NaN: energy is not modelled.
        works: Whether clients are served one after the other, or all at once, each at full speed.
        inter_server_bit_per_s: Rate between the server and the one that aggregates; None: they are one machine.
    """

    clock_hz: float
    flop_per_cycle: float
    efficiency: float = 1.0
    watt_per_cubic_hz: float = math.nan
    transmit_power_watt: float = math.nan
    works: Works = "serial"
    inter_server_bit_per_s: float | None = None

    def __post_init__(self) -> None:
        for field in ("clock_hz", "flop_per_cycle", "efficiency"):
            check_number("Server", field, getattr(self, field))
        check_number("Server", "watt_per_cubic_hz", self.watt_per_cubic_hz, unknown=True)
        power = ACCEPTED["server_power_watt"]
        check_number("Server", "transmit_power_watt", self.transmit_power_watt, accepted=power, unknown=True)
        if self.works not in get_args(Works):
            raise ValueError(f"Server(works={self.works!r}) is not accepted: give one of {', '.join(get_args(Works))}.")
        if self.inter_server_bit_per_s is not None:
            check_number("Server", "inter_server_bit_per_s", self.inter_server_bit_per_s)

    def flop_per_s(self) -> float:
        """How fast the server computes: f·n, times the share that is reached."""
        return self.clock_hz * self.flop_per_cycle * self.efficiency

    def compute_watt(self) -> float:
        """What the server takes while it computes: G·f³ (Wei & Chen 2026, energy model)."""
        return self.watt_per_cubic_hz * self.clock_hz * self.clock_hz * self.clock_hz
