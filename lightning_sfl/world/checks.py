"""Which values a quantity may have, by its name; what is outside is refused with name, client, value and range."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.decibel import dbm_to_watt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accepted:
    """The values that a quantity may have.

    Args:
        unit: Its unit.
        above: Values are above this.
        at_most: And at most this.
        least: Whether ``above`` itself is accepted.
        mistaken_for: The logarithmic unit in which the quantity is often given by mistake.
    """

    unit: str
    above: float = 0.0
    at_most: float = math.inf
    least: bool = False
    mistaken_for: Literal["dBm", "dBm/Hz"] | None = None

    def holds(self, values: FloatArray) -> BoolArray:
        """Where values are accepted; NaN never is."""
        from_below = values >= self.above if self.least else values > self.above
        return from_below & (values <= self.at_most)

    def __str__(self) -> str:
        lowest = f"at least {self.above:g}" if self.least else f"above {self.above:g}"
        highest = "" if math.isinf(self.at_most) else f" and at most {self.at_most:g}"
        return f"{lowest}{highest} {self.unit}".rstrip()


_POWER = Accepted(unit="watts", at_most=10.0, mistaken_for="dBm")
_HERTZ = Accepted(unit="hertz", at_most=1e12)
_RATE = Accepted(unit="bit/s", at_most=1e15)
_SPREAD = Accepted(unit="bit/s", at_most=1e15, least=True)
_GAIN = Accepted(unit="(a ratio of powers, not decibels)", at_most=1.0)
# A clock below 100 kHz was given in GHz or MHz.
_CLOCK = Accepted(unit="hertz", above=1e5, at_most=1e10)

ACCEPTED: Mapping[str, Accepted] = {
    "clock_hz": _CLOCK,
    "lowest_clock_hz": _CLOCK,
    "flop_per_cycle": Accepted(unit="FLOP per cycle", at_most=1e9),
    "efficiency": Accepted(unit="(a share)", at_most=1.0),
    # Published chips lie between 1e-30 and 1e-25 W/Hz³; 1e-20 would be 10 MW at 10 GHz.
    "watt_per_cubic_hz": Accepted(unit="W/Hz³", at_most=1e-20),
    "transmit_power_watt": _POWER,
    "client_power_watt": _POWER,
    "power_watt": _POWER,
    "server_power_watt": Accepted(unit="watts", at_most=40.0, mistaken_for="dBm"),
    "memory_byte": Accepted(unit="bytes"),
    "bandwidth_hz": _HERTZ,
    "hz": _HERTZ,
    "uplink_gain": _GAIN,
    "downlink_gain": _GAIN,
    "noise_watt_per_hz": Accepted(unit="W/Hz", at_most=1e-12, mistaken_for="dBm/Hz"),
    "distance_m": Accepted(unit="metres", at_most=1e8),
    "coherence_s": Accepted(unit="seconds", at_most=1e6),
    "inter_server_bit_per_s": _RATE,
    "mean_uplink_bit_per_s": _RATE,
    "mean_downlink_bit_per_s": _RATE,
    "uplink_sigma_bit_per_s": _SPREAD,
    "downlink_sigma_bit_per_s": _SPREAD,
}


def check(
    owner: str,
    field: str,
    values: FloatArray,
    *,
    clients: IntArray | None = None,
    accepted: Accepted | None = None,
    unknown: bool = False,
) -> FloatArray:
    """Return values, one per client, if all of them are accepted.

    Args:
        owner: Whose field it is, for the message.
        field: Name of the field.
        values: An array with one entry per client, or a single number.
        clients: Whose the entries are; those of clients 0, 1, ... by default.
        accepted: The values it may have; what its name says by default.
        unknown: Whether NaN, which stands for "not known", is accepted.
    """
    wanted = ACCEPTED[field] if accepted is None else accepted
    fine = wanted.holds(values)
    if unknown:
        fine |= np.isnan(values)
    if not np.all(fine):
        entry = int(np.argmin(fine))
        value = float(values.flat[entry])
        whose = f" of client {entry if clients is None else int(clients[entry])}" if np.ndim(values) else ""
        raise ValueError(f"{owner}({field}=...){whose} is {value:g}; it must be {wanted}.{_hint(wanted, value)}")
    return values


def check_number(
    owner: str, field: str, value: float, *, accepted: Accepted | None = None, unknown: bool = False
) -> None:
    """Raise a ValueError unless a single number is accepted; see :func:`check`."""
    check(owner, field, np.asarray(value, dtype=np.float64), accepted=accepted, unknown=unknown)


def check_clients(owner: str, holds: int, num_clients: int) -> None:
    """Raise a ValueError if something is for fewer clients than there are."""
    if holds < num_clients:
        raise ValueError(f"{owner} is for {holds} clients, but num_clients={num_clients}; it needs at least as many.")


def _hint(accepted: Accepted, value: float) -> str:
    """What a value would be, were it a level in decibels."""
    if accepted.mistaken_for is None or not -300.0 <= value <= 100.0:
        return ""
    unit = accepted.unit if accepted.mistaken_for == "dBm/Hz" else "W"
    meant = f"{value:g} {accepted.mistaken_for} are {dbm_to_watt(value):.4g} {unit}"
    return f" It looks like {accepted.mistaken_for}: {meant}."
