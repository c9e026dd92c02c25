"""What costing reads of a profile, a fleet and a server."""

from typing import Literal, Protocol

from lightning_sfl.world.arrays import FloatArray, IntArray


class ProfileArrays(Protocol):
    """The model, one row per valid cut in order of execution.

    What depends on the batch size b is a line, (C, 2): fixed + per_sample · b.
    """

    @property
    def cuts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def client_forward_flop(self) -> FloatArray: ...  # noqa: D102
    @property
    def client_backward_flop(self) -> FloatArray: ...  # noqa: D102
    @property
    def server_forward_flop(self) -> FloatArray: ...  # noqa: D102
    @property
    def server_backward_flop(self) -> FloatArray: ...  # noqa: D102
    @property
    def smashed_element(self) -> FloatArray: ...  # noqa: D102
    @property
    def smashed_bit(self) -> FloatArray: ...  # noqa: D102
    @property
    def cut_gradient_bit(self) -> FloatArray: ...  # noqa: D102
    @property
    def beside_bit(self) -> FloatArray: ...  # noqa: D102
    @property
    def update_bit(self) -> FloatArray: ...  # noqa: D102
    @property
    def optimizer_state_bit(self) -> FloatArray: ...  # noqa: D102
    @property
    def whole_update_bit(self) -> float: ...  # noqa: D102
    @property
    def whole_optimizer_state_bit(self) -> float: ...  # noqa: D102

    def training_memory_byte(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """What a client's half takes at most while it trains."""
        ...

    def forward_memory_byte(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """What it takes where it only runs forward."""
        ...

    def whole_training_memory_byte(self, batch_size: IntArray) -> FloatArray:
        """What the whole model takes at most while it trains."""
        ...


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
