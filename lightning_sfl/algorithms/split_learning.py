"""Split learning: one set of client weights, handed on from client to client."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.placement import Placement, between, client_side
from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import RelaySchedule, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitLearning:
    """Clients take turns at one set of client weights and one server copy; each hands the weights on after I steps.

    Gupta and Raskar 2018, "Distributed learning of deep neural network over multiple agents" (J. Netw. Comput. Appl.,
    section 3.3), in its centralised form: the weights go from holder to holder by way of a server. A round is one
    holder's turn, and the mean over its one participant is the participant.
    """

    name: ClassVar[str] = "split_learning"
    uses_cut: ClassVar[bool] = True
    schedule: ClassVar[type[Schedule]] = RelaySchedule

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`."""
        assert split is not None
        assert deepest is not None
        return Placement(client=client_side(module, split), replica=between(module, split, deepest), has_common=True)
