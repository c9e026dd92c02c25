"""SplitFed, version 2: one server model, stepped client by client."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.placement import Placement, between, client_side
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import Schedule, SequentialSchedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFedV2:
    """The server trains one copy on one client after the other, in an order drawn each round; clients averaged every I.

    Thapa, Chamikara, Camtepe and Sun 2020, "SplitFed: When Federated Learning Meets Split Learning" (arXiv 2004.12088),
    algorithm SFLV2: clients are visited in random order, and each has its I batches before the next one. Unlike in the
    authors' released code, the server's optimizer lives on between batches, and the mean of the clients is weighted.
    """

    name: ClassVar[str] = "splitfed_v2"
    uses_cut: ClassVar[bool] = True
    schedule: ClassVar[type[Schedule]] = SequentialSchedule

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`."""
        assert split is not None
        assert deepest is not None
        return Placement(client=client_side(module, split), replica=between(module, split, deepest), has_common=True)
