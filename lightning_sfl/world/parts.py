"""What costing reads of a fleet and a server."""

from typing import Literal, Protocol

from lightning_sfl.world.arrays import FloatArray, IntArray


class FleetArrays(Protocol):
    """The devices, one entry per registered client."""

    @property
    def clock_hz(self) -> FloatArray: ...  # noqa: D102
    @property
    def transmit_power_watt(self) -> FloatArray: ...  # noqa: D102
    @property
    def memory_byte(self) -> FloatArray: ...  # noqa: D102

    def flop_per_s(self, clients: IntArray, clock_hz: FloatArray | None = None, round: int = 0) -> FloatArray:
        """How fast clients compute."""
        ...

    def compute_watt(self, clients: IntArray, clock_hz: FloatArray | None = None) -> FloatArray:
        """What computing takes, G f³; NaN where it is not modelled."""
        ...

    def check(self, num_clients: int) -> None:
        """Raise a ValueError if there are fewer devices than clients."""
        ...


class ServerValues(Protocol):
    """The server."""

    @property
    def transmit_power_watt(self) -> float: ...  # noqa: D102
    @property
    def works(self) -> Literal["serial", "parallel"]: ...  # noqa: D102
    @property
    def inter_server_bit_per_s(self) -> float | None: ...  # noqa: D102

    def flop_per_s(self) -> float:
        """How fast it computes."""
        ...

    def compute_watt(self) -> float:
        """What computing takes, G f³; NaN where it is not modelled."""
        ...
