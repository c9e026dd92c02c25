"""What a policy or a user decides about the clients: a struct of arrays with one entry per registered client."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from numbers import Real

UNENCODED_BIT = 32
"""Bits that stand for smashed data and cut gradients without a quantiser."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """What every client is given from the next round on. What is None stays as it is.

    Attributes:
        cut: Name of the cut module of every registered client.
        batch_size: Samples per step of every registered client; one with fewer samples uses all it has.
        bits: Bits per element of every client's smashed data and cut gradient: from 1 to 16, those of the uniform
            quantiser in the client's codecs; or 32, for which the quantiser is left out.
        transmit_power_watt: Transmit power of every client's simulated device.
        clock_hz: Its clock.
        bandwidth_hz: Its bandwidth towards the server.
    """

    cut: Sequence[str] | None = None
    batch_size: Sequence[int] | None = None
    bits: Sequence[int] | None = None
    transmit_power_watt: Sequence[float] | None = None
    clock_hz: Sequence[float] | None = None
    bandwidth_hz: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("transmit_power_watt", "clock_hz", "bandwidth_hz"):
            values = getattr(self, name)
            if values is not None and not _are_positive(values):
                raise ValueError(f"{name}={values!r} is not accepted: give one number above 0 per registered client.")
        if self.cut is not None and not _are_names(self.cut):
            raise ValueError(f"cut={self.cut!r} is not accepted: give one module name per registered client.")
        if self.bits is not None and not _are_bits(self.bits):
            raise ValueError(
                f"bits={self.bits!r} is not accepted: give one integer from 1 to 16 per registered client, or"
                f" {UNENCODED_BIT} for one that is to send as it is."
            )
        if self.batch_size is not None and not _are_sizes(self.batch_size):
            raise ValueError(
                f"batch_size={self.batch_size!r} is not accepted: give one integer of at least 1 per registered client."
            )

    def check(self, num_clients: int) -> None:
        """Raise a ValueError unless there is one entry for every one of ``num_clients``."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != num_clients:
                raise ValueError(
                    f"Allocation({field.name}=...) has {len(value)} entries for num_clients={num_clients}; it needs one"
                    " for every registered client."
                )


def _are_names(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str) and all(isinstance(name, str) for name in value)


def _are_sizes(value: object) -> bool:
    return isinstance(value, Iterable) and all(_is_size(size) for size in value)


def _are_bits(value: object) -> bool:
    return isinstance(value, Iterable) and all(
        _is_size(bit) and not isinstance(bit, bool) and (bit <= 16 or bit == UNENCODED_BIT) for bit in value
    )


def _are_positive(values: object) -> bool:
    return isinstance(values, Iterable) and all(isinstance(v, Real) and 0 < float(v) < math.inf for v in values)


def _is_size(value: object) -> bool:
    number = float(value) if isinstance(value, Real) else 0.0
    return number >= 1 and number.is_integer()
