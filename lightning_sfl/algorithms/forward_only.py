"""What algorithms have in common whose clients run forward only and estimate their gradient."""

import dataclasses
import math
from enum import StrEnum
from typing import ClassVar, Literal

from torch import nn

from lightning_sfl.algorithms.placement import Owned, Placement, client_side
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import ParallelSchedule, Schedule
from lightning_sfl.zeroth_order.directions import Distribution


class Surrogate(StrEnum):
    """The function whose slopes along random directions a client's gradient is estimated from.

    The algorithms differ in it alone (HO-FL, appendix A.2). ``cut_gradient``: ⟨λ, f_c(x; θ)⟩, with λ the gradient of
    the loss at the cut, from the server's backward pass. ``full_loss``: the loss itself, which the server computes of
    what the client sends for every move. ``local_loss``: that of an auxiliary head at the client.
    """

    CUT_GRADIENT = "cut_gradient"
    FULL_LOSS = "full_loss"
    LOCAL_LOSS = "local_loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardOnly:
    """Clients that cannot backpropagate, and have the same weights at all times.

    Args:
        probes: P, the random directions per step.
        mu: μ, how far weights are moved along a direction.
        distribution: What directions are drawn from: ``"gaussian"``, or ``"rademacher"`` for ±1.

    Raises:
        ValueError: ``probes`` is below 1, ``mu`` is not above 0 and finite, or the distribution is not known.
    """

    probes: int = 5
    mu: float = 1e-3
    distribution: Literal["gaussian", "rademacher"] = "gaussian"

    name: ClassVar[str]
    uses_cut: ClassVar[bool] = True
    schedule: ClassVar[type[Schedule]] = ParallelSchedule
    surrogate: ClassVar[Surrogate]
    server_backpropagates: ClassVar[bool] = True
    head: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.probes, int) or isinstance(self.probes, bool) or self.probes < 1:
            raise ValueError(f"probes={self.probes!r} is not accepted: give an integer of at least 1.")
        if isinstance(self.mu, bool) or not isinstance(self.mu, int | float) or not 0 < self.mu < math.inf:
            raise ValueError(f"mu={self.mu!r} is not accepted: give a finite number above 0.")
        if self.distribution not in tuple(Distribution):
            accepted = ", ".join(repr(str(one)) for one in Distribution)
            raise ValueError(f"distribution={self.distribution!r} is not known. Accepted are {accepted}.")

    @property
    def client_has_scalars(self) -> bool:
        """Whether it is the client who knows its scalars and uploads them; else the server, which computes losses."""
        return self.surrogate is not Surrogate.FULL_LOSS

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`: nobody owns anything alone."""
        assert split is not None
        return Placement(client=Owned(), replica=Owned(), has_common=True, alike=client_side(module, split))

    def __str__(self) -> str:
        values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
        return f"{self.name}({values})"
