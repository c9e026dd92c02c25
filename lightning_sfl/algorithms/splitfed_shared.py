"""SplitFed with one server model for all participants."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.placement import Placement, between, client_side
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import ParallelSchedule, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFedShared:
    """One server copy, stepped every step on the weighted mean of the participants' losses; clients averaged every I.

    The schedule of AdaptSFL (arXiv 2403.13101) and HASFL (arXiv 2506.08426, section 2.1): layers behind the deepest cut
    are common and aggregated in every step, all others every I steps.
    """

    name: ClassVar[str] = "splitfed_shared"
    uses_cut: ClassVar[bool] = True
    schedule: ClassVar[type[Schedule]] = ParallelSchedule

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`."""
        assert split is not None
        assert deepest is not None
        return Placement(client=client_side(module, split), replica=between(module, split, deepest), has_common=True)
