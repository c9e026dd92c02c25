"""Federated averaging: the cut at the end."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.placement import Owned, Placement, everything
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import ParallelSchedule, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Every client trains the whole model, averaged every I steps.

    McMahan, Moore, Ramage, Hampson and Aguera y Arcas 2017, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (AISTATS, Algorithm 1), with I local steps in place of local epochs.
    """

    name: ClassVar[str] = "fedavg"
    uses_cut: ClassVar[bool] = False
    schedule: ClassVar[type[Schedule]] = ParallelSchedule

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`."""
        assert split is None
        return Placement(client=everything(module), replica=Owned(), has_common=False)
