"""Who takes part in a round, and what each of them is given."""

import dataclasses

import numpy as np

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.step_cost import AS_BUILT, Controls


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Participation:
    """Who takes part, and what each of them is given; entry i of every array is the i-th.

    Attributes:
        clients: Who takes part; in the order in which they are served where that is one by one.
        cut: Where each cuts, an index into the profile's cuts. It does not matter to an algorithm without a cut.
        batch_size: Samples per step.
        bits: Bits per element of what goes through a uniform quantiser per tensor (``World.quantised``), from 1 to 16,
            or 32 for what is sent as computed; None: all as computed.
        controls: Transmit power, CPU clock and bandwidth.
    """

    clients: IntArray
    cut: IntArray
    batch_size: IntArray
    bits: FloatArray | None = None
    controls: Controls = AS_BUILT

    def __post_init__(self) -> None:
        if self.clients.ndim != 1 or not len(self.clients):
            raise ValueError(f"clients={self.clients!r} is not accepted: give one number per client, at least one.")
        for name, values in {
            "cut": self.cut,
            "batch_size": self.batch_size,
            "bits": self.bits,
            **{field.name: getattr(self.controls, field.name) for field in dataclasses.fields(self.controls)},
        }.items():
            if values is not None:
                self.check_shape(name, values)
        if len(np.unique(self.clients)) < len(self.clients):
            raise ValueError(f"clients={self.clients!r} is not accepted: nobody takes part twice.")
        self.refuse("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")
        if self.bits is not None:
            few = (self.bits >= 1) & (self.bits <= 16) & (self.bits % 1 == 0)
            self.refuse("bits", self.bits, few | (self.bits == UNENCODED_BIT), "an integer from 1 to 16, or 32")

    def check_shape(self, name: str, values: IntArray | FloatArray) -> None:
        """Raise a ValueError unless there is one value for each."""
        if values.shape != self.clients.shape:
            raise ValueError(
                f"{name} has the shape {values.shape} for {len(self.clients)} clients; it needs one entry for each."
            )

    def refuse(self, name: str, values: IntArray | FloatArray, accepted: BoolArray, range: str) -> None:
        """Raise a ValueError naming the first client whose value is not accepted."""
        if not accepted.all():
            first = int(accepted.argmin())
            raise ValueError(
                f"{name}={values[first]} of client {self.clients[first]} is not accepted: it must be {range}."
            )
