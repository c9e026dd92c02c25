"""SplitFed, version 1: a server replica per participant."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.placement import Placement, client_side, server_side
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import ParallelSchedule, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFedV1:
    """A server replica and optimizer per participant, averaged together with the client shards every I steps.

    Thapa, Chamikara, Camtepe and Sun 2020, "SplitFed: When Federated Learning Meets Split Learning" (arXiv 2004.12088),
    algorithm SFLV1. Unlike the authors' released code, a replica's optimizer lives on between batches, replicas of the
    round's participants are averaged at its end whoever they are, and the mean is weighted.
    """

    name: ClassVar[str] = "splitfed_v1"
    uses_cut: ClassVar[bool] = True
    schedule: ClassVar[type[Schedule]] = ParallelSchedule

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`."""
        assert split is not None
        return Placement(client=client_side(module, split), replica=server_side(module, split), has_common=False)
