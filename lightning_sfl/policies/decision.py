"""What a policy is, what it returns, and what is refused of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.observation import Observation
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.channel.wireless import WirelessChannel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What a policy decides.

    Attributes:
        allocation: What every registered client is given (:meth:`Observation.allocation`).
        reason: Why, in one line, for the log.
        figures: Numbers to be logged with it, by name, with the unit in the name.
        memory: What the policy wants to see again at its next decision: plain Python, for checkpoints.
    """

    allocation: Allocation
    reason: str = ""
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Policy(Protocol):
    """Decides what clients are given, from nothing but what is seen: the same observation, the same decision."""

    def decide(self, seen: Observation) -> Decision:
        """Decide for the rounds to come.

        Raises:
            InfeasibleError: No allocation meets the constraints.
        """
        ...


class InfeasibleError(ValueError):
    """No allocation meets the constraints; the message names the one that binds, and the client."""


def check(policy: Policy, seen: Observation, decision: Decision) -> None:
    """Raise a ValueError naming policy, field and client unless a decision is within what there is.

    That is: one entry per registered client, cuts of the profile, batches that fit the devices' memory, powers and
    clocks that they have, and no more bandwidth than there is.
    """
    allocation, name = decision.allocation, type(policy).__name__
    registered = len(seen.now.batch_size or ())
    try:
        allocation.check(registered)
        cut = seen.cut if allocation.cut is None else seen.world.profile.index(_of(allocation.cut, seen.clients))
    except ValueError as error:
        raise ValueError(f"{name} decided what is not accepted: {error}") from error
    batch = seen.batch_size if allocation.batch_size is None else _numbers(allocation.batch_size, seen.clients)
    held = seen.world.fleet.memory_byte[seen.clients]
    needed = seen.world.memory_at(cut, np.minimum(batch, seen.samples).astype(np.int64))
    if allocation.cut is not None or allocation.batch_size is not None:
        _refuse(name, "cut and batch_size", batch, needed <= held, seen.clients, "what fits the device's memory")
    fleet = seen.world.fleet
    if allocation.clock_hz is not None:
        clock = _numbers(allocation.clock_hz, seen.clients)
        fits = (clock >= fleet.lowest_clock_hz[seen.clients]) & (clock <= fleet.clock_hz[seen.clients])
        _refuse(name, "clock_hz", clock, fits, seen.clients, "within the device's range")
    given = {field: getattr(allocation, field) for field in ("transmit_power_watt", "bandwidth_hz")}
    if all(values is None for values in given.values()):
        return
    radio = seen.radio
    if radio is None:
        field = next(field for field, values in given.items() if values is not None)
        raise ValueError(
            f"{name} decided {field}, but the rates of {type(seen.world.channel).__name__} are given and do not depend"
            " on it."
        )
    if given["transmit_power_watt"] is not None:
        power = _numbers(given["transmit_power_watt"], seen.clients)
        fits = (power > 0) & (power <= radio.most_watt)
        _refuse(name, "transmit_power_watt", power, fits, seen.clients, "above 0 and at most the device's")
    if given["bandwidth_hz"] is not None:
        channel = seen.world.channel
        assert isinstance(channel, WirelessChannel)
        try:
            channel.uplink_bandwidth.check_allocated(_numbers(given["bandwidth_hz"], seen.clients), seen.clients)
        except ValueError as error:
            raise ValueError(f"{name} decided what is not accepted: {error}") from error


def _of(values: Sequence[str], clients: IntArray) -> list[str]:
    return [values[client] for client in clients.tolist()]


def _numbers(values: Sequence[float], clients: IntArray) -> FloatArray:
    return np.array(values, dtype=np.float64)[clients]


def _refuse(
    policy: str, field: str, values: FloatArray | IntArray, fits: BoolArray, clients: IntArray, accepted: str
) -> None:
    if not fits.all():
        first = int(fits.argmin())
        raise ValueError(
            f"{policy} decided {field}={values[first]:g} for client {clients[first]}, which is not accepted: it must be"
            f" {accepted}."
        )
