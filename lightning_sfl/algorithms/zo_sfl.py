"""ZO-SFL: zeroth order on both sides."""

import dataclasses
from typing import ClassVar

from lightning_sfl.algorithms.forward_only import ForwardOnly, Surrogate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZOSFL(ForwardOnly):
    """Nobody backpropagates: the baseline of HO-SFL (arXiv 2603.14773), and MU-SplitFed (arXiv 2510.21155) with τ = 1.

    Client and server move their weights together along a random direction, once forth and once back (two-sided, as in
    MeZO, arXiv 2305.17333); the client sends its smashed data both times, and half the difference of the losses goes
    into both sides' estimates. What the papers leave open is a reconstruction.
    """

    name: ClassVar[str] = "zo_sfl"
    surrogate: ClassVar[Surrogate] = Surrogate.FULL_LOSS
    server_backpropagates: ClassVar[bool] = False
