"""The profile of a U-shape against a client's two parts as they run alone, on real tensors, around a server that is
somewhere else."""

import pytest
import torch
from real_halves import RealHalf
from sfl_models import U_SHAPES, sgd
from test_measured_halves import sized
from torch.utils._pytree import tree_leaves

from lightning_sfl.cut.find import loss_of, search, training_step
from lightning_sfl.cut.modes import run_around
from lightning_sfl.world.model.measure import profile_cuts

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
SIZE = 7


class Elsewhere:
    """A server that sends tensors of the right shapes."""

    def __init__(self, shapes) -> None:
        self.shapes = shapes

    def carry(self, tensors):
        self.sent = [(tensor.shape, tensor.dtype) for tensor in tensors]
        return tuple(torch.zeros(shape) for shape in self.shapes)

    def carry_back(self, gradients):
        return tuple(torch.zeros(shape) if dtype.is_floating_point else None for shape, dtype in self.sent)


@pytest.mark.parametrize(("kind", "cuts"), U_SHAPES)
def test_client_memory_is_what_both_parts_take(kind, cuts):
    """Within 10 %. Of what has come back the profile counts all until its gradient is there; alone, a client keeps only
    what its own backward pass reads."""
    module = kind.module(sgd)
    optimizer = sgd(module.parameters())
    split = search(module, kind.batch(), server_inputs=kind.server_inputs, last=cuts[1]).split(cuts[0])
    profile = profile_cuts(module, kind.batch(), {cuts[0]: split}, optimizer)
    batch, shapes = sized(kind, SIZE), []

    def see(_module, _inputs, output):
        shapes.extend(tree_leaves(output)[place].shape for place in split.back.outputs)

    handle = module.get_submodule(cuts[1]).register_forward_hook(see)
    training_step(module, batch)
    handle.remove()
    half = RealHalf(module, split, batch, optimizer)

    def step():
        run_around(half.module, split, lambda: loss_of(training_step(half.module, batch)), Elsewhere(shapes)).backward()
        half.optimizer.step()
        half.optimizer.zero_grad()

    step()  # makes the optimizer's state of the second part
    assert profile.training_memory_byte(0, SIZE) == pytest.approx(half.peak_byte(step), rel=0.1)
