"""HOSL: the clients' estimate is made of the full loss."""

import dataclasses
from typing import ClassVar

from lightning_sfl.algorithms.forward_only import ForwardOnly, Surrogate


@dataclasses.dataclass(frozen=True, kw_only=True)
class HOSL(ForwardOnly):
    """Hybrid-order split learning (arXiv 2601.10940): the server backpropagates, clients are told losses.

    In every step a client sends its smashed data 2P + 1 times: as they are, which the server trains on, and with its
    weights moved forth and back along every direction, of which the server computes the losses. Half their difference
    stands in the place of HO-SFL's scalar, and no cut gradient crosses. Known by its abstract and by HO-FL's appendix
    A.2: a reconstruction.
    """

    name: ClassVar[str] = "hosl"
    surrogate: ClassVar[Surrogate] = Surrogate.FULL_LOSS
