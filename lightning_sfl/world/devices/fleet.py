"""The fleet: which devices the clients are, how fast each computes and what that takes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import FloatArray, IntArray, between, count, per_client, read_only
from lightning_sfl.world.checks import check, check_clients, check_number

# NaN stands for a clock that cannot be lowered, and for energy that is not modelled.
_MAY_BE_NAN = ("lowest_clock_hz", "watt_per_cubic_hz", "transmit_power_watt")


class Speed(Protocol):
    """How the speed of devices changes from round to round."""

    def factor(self, clients: IntArray, round: int) -> FloatArray:
        """The share of its speed that each of the clients has in a round, shape (K,)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steady:
    """Every device is always as fast as it can be."""

    def factor(self, clients: IntArray, round: int) -> FloatArray:
        """See :meth:`Speed.factor`."""
        return np.ones(len(clients))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackgroundLoad:
    """Other programs take a part of each device's time: its speed is multiplied by a factor drawn from a range.

    Args:
        lowest: The lowest factor, above 0.
        highest: The highest factor, at most 1.
        every_rounds: After how many rounds factors are drawn anew.
        seed: The seed.
    """

    lowest: float
    highest: float = 1.0
    every_rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.lowest <= self.highest <= 1.0:
            raise ValueError(
                f"BackgroundLoad(lowest={self.lowest}, highest={self.highest}) is not accepted: give factors with"
                " 0 < lowest <= highest <= 1."
            )
        if self.every_rounds < 1:
            raise ValueError(f"BackgroundLoad(every_rounds={self.every_rounds}) is not accepted: give at least 1.")

    def factor(self, clients: IntArray, round: int) -> FloatArray:
        """See :meth:`Speed.factor`."""
        if len(clients) == 0:
            return np.ones(0)
        drawn = uniforms(int(clients.max()) + 1, self.seed, "background load", round // self.every_rounds)
        return between((self.lowest, self.highest), drawn[clients])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """One client's device; see :class:`Fleet` for what the fields mean."""

    clock_hz: float
    flop_per_cycle: float
    lowest_clock_hz: float = math.nan
    efficiency: float = 1.0
    watt_per_cubic_hz: float = math.nan
    transmit_power_watt: float = math.nan
    memory_byte: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetRanges:
    """From which range [lowest, highest] each property of a device is drawn, uniformly and by itself.

    What is the same for all has that number twice. Without ``lowest_clock_hz``, a device's lowest clock is its highest.
    """

    clock_hz: tuple[float, float]
    flop_per_cycle: tuple[float, float]
    lowest_clock_hz: tuple[float, float] = (math.nan, math.nan)
    efficiency: tuple[float, float] = (1.0, 1.0)
    watt_per_cubic_hz: tuple[float, float] = (math.nan, math.nan)
    transmit_power_watt: tuple[float, float] = (math.nan, math.nan)
    memory_byte: tuple[float, float] = (math.inf, math.inf)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            ends = getattr(self, field.name)
            for end in ends:
                check_number("FleetRanges", field.name, end, unknown=field.name in _MAY_BE_NAN)
            if ends[0] > ends[1]:
                raise ValueError(f"FleetRanges({field.name}={ends}) is not accepted: give the lower end first.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """The devices of all clients: arrays with one entry per registered client.

    Where a single number is given, it is every client's; ``clock_hz`` says how many clients there are.

    Args:
        clock_hz: Highest clock; what a device runs at unless it is allocated less. Above 100 kHz, at most 10 GHz.
        flop_per_cycle: Floating-point operations per clock cycle, above 0; a multiply-accumulate counts as 2.
        lowest_clock_hz: Lowest clock. NaN: equal to the highest, a clock that cannot be lowered.
        efficiency: Share of clock times FLOP per cycle that is reached, above 0, at most 1.
        watt_per_cubic_hz: Chip coefficient G: a device that computes at f takes G·f³. NaN: energy is not modelled.
        transmit_power_watt: Highest transmit power, at most 10 W. NaN: energy is not modelled.
        memory_byte: Memory for training, above 0; infinite: unlimited.
        speed: How speed changes over the rounds.
    """

    clock_hz: FloatArray
    flop_per_cycle: FloatArray
    lowest_clock_hz: FloatArray = dataclasses.field(default_factory=lambda: read_only(math.nan))
    efficiency: FloatArray = dataclasses.field(default_factory=lambda: read_only(1.0))
    watt_per_cubic_hz: FloatArray = dataclasses.field(default_factory=lambda: read_only(math.nan))
    transmit_power_watt: FloatArray = dataclasses.field(default_factory=lambda: read_only(math.nan))
    memory_byte: FloatArray = dataclasses.field(default_factory=lambda: read_only(math.inf))
    speed: Speed = dataclasses.field(default_factory=Steady)

    def __post_init__(self) -> None:
        clients = count("Fleet", "clock_hz", self.clock_hz)
        for field in dataclasses.fields(Device):
            values = per_client("Fleet", field.name, getattr(self, field.name), clients)
            check("Fleet", field.name, values, unknown=field.name in _MAY_BE_NAN)
            object.__setattr__(self, field.name, values)
        fixed = np.isnan(self.lowest_clock_hz)
        object.__setattr__(self, "lowest_clock_hz", read_only(np.where(fixed, self.clock_hz, self.lowest_clock_hz)))
        above = self.lowest_clock_hz > self.clock_hz
        if above.any():
            client = int(np.argmax(above))
            raise ValueError(
                f"Fleet(lowest_clock_hz=...) of client {client} is {self.lowest_clock_hz[client]:g}; it must be at most"
                f" its clock_hz={self.clock_hz[client]:g} hertz."
            )

    @classmethod
    def drawn(cls, num_clients: int, seed: int, ranges: FleetRanges, *, speed: Speed | None = None) -> Self:
        """Draw every device from the same ranges.

        A client's device depends on the seed and on its index, not on how many clients there are; a property depends
        on its own range alone.
        """
        if num_clients < 1:
            raise ValueError(f"num_clients={num_clients} is not accepted: give at least 1.")
        drawn = {
            field.name: between(getattr(ranges, field.name), uniforms(num_clients, seed, f"fleet {field.name}"))
            for field in dataclasses.fields(ranges)
        }
        return cls(**drawn, speed=Steady() if speed is None else speed)

    @classmethod
    def of(cls, devices: Sequence[Device], *, speed: Speed | None = None) -> Self:
        """The fleet of a list of devices, one per client."""
        if not devices:
            raise ValueError("Fleet.of([]) is not accepted: give one device per client, at least one.")
        columns = {
            field.name: read_only([getattr(device, field.name) for device in devices])
            for field in dataclasses.fields(Device)
        }
        return cls(**columns, speed=Steady() if speed is None else speed)

    @property
    def num_clients(self) -> int:
        """How many devices there are."""
        return len(self.clock_hz)

    def check(self, num_clients: int) -> None:
        """Raise a ValueError if there are fewer devices than clients."""
        check_clients("Fleet", self.num_clients, num_clients)

    def flop_per_s(self, clients: IntArray, clock_hz: FloatArray | None = None, round: int = 0) -> FloatArray:
        """How fast clients compute in a round, shape (K,): f·n, times the shares that are reached.

        Args:
            clients: Indices of the clients.
            clock_hz: The clock that each of them is allocated; their highest by default.
            round: The round.
        """
        peak = self._clock(clients, clock_hz) * self.flop_per_cycle[clients]
        return peak * self.efficiency[clients] * self.speed.factor(clients, round)

    def compute_watt(self, clients: IntArray, clock_hz: FloatArray | None = None) -> FloatArray:
        """What clients take while they compute, shape (K,): G·f³ (Wei & Chen 2026, energy model)."""
        clock = self._clock(clients, clock_hz)
        return self.watt_per_cubic_hz[clients] * clock * clock * clock

    def _clock(self, clients: IntArray, allocated: FloatArray | None) -> FloatArray:
        if allocated is None:
            return self.clock_hz[clients]
        lowest, highest = self.lowest_clock_hz[clients], self.clock_hz[clients]
        fine = (allocated >= lowest) & (allocated <= highest)
        if not fine.all():
            entry = int(np.argmin(fine))
            raise ValueError(
                f"clock_hz={allocated[entry]:g} of client {clients[entry]} is not accepted: its device runs at"
                f" {lowest[entry]:g} to {highest[entry]:g} hertz."
            )
        return allocated
