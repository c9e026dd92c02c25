"""HERON-SFL: the clients' estimate is made of a loss of their own."""

import dataclasses
from typing import ClassVar

from torch import nn

from lightning_sfl.algorithms.forward_only import ForwardOnly, Surrogate
from lightning_sfl.algorithms.placement import Owned, Placement
from lightning_sfl.cut.split import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class HERONSFL(ForwardOnly):
    """Hybrid zeroth- and first-order optimisation with auxiliary heads (HERON-SFL, arXiv 2601.09076).

    A client has a small head of its own, and estimates the gradient of that head's loss; no cut gradient crosses. The
    server trains on the smashed data by backpropagation. Here data are uploaded in every step, and clients are kept
    alike by seeds and scalars as in HO-SFL: a reconstruction.

    The module needs a submodule named ``auxiliary_head`` and a method ``auxiliary_loss(batch, *smashed)``, which
    returns the head's mean loss on a batch, given the tensors that cross.
    """

    name: ClassVar[str] = "heron_sfl"
    surrogate: ClassVar[Surrogate] = Surrogate.LOCAL_LOSS
    head: ClassVar[str | None] = "auxiliary_head"

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """See :meth:`Algorithm.place`; the head is the clients'."""
        placement = super().place(module, split, deepest)
        assert self.head is not None
        head = module.get_submodule(self.head)
        names = [f"{self.head}.{name}" for name, own in head.named_parameters() if own.requires_grad]
        alike = Owned(
            parameters=tuple(dict.fromkeys([*placement.alike.parameters, *names])), buffers=placement.alike.buffers
        )
        return dataclasses.replace(placement, alike=alike)
