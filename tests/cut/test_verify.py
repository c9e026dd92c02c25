"""The two checks of a split find what is wrong with one."""

import dataclasses

import pytest
import torch
from torch import nn

from lightning_sfl.cut.crossing import Crossing
from lightning_sfl.cut.find import search
from lightning_sfl.cut.split import Split
from lightning_sfl.cut.verify import autograd_disagreement, injection_disagreement


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.b(self.norm(self.a(x))), y)


@pytest.fixture
def checked():
    torch.manual_seed(0)
    module, batch = Net(), (torch.rand(6, 4), torch.tensor([1, 1, 0, 1, 0, 1]))
    return module, batch, search(module, batch).split("norm")


def agreement(module, batch, split: Split) -> str | None:
    loss = module.training_step(batch, 0)
    return injection_disagreement(
        module, split, batch, lambda b: module.training_step(b, 0), loss.detach(), lambda: None
    )


def test_a_right_split_passes_both(checked):
    module, batch, split = checked
    assert agreement(module, batch, split) is None


def test_a_label_taken_for_private_changes_the_loss(checked):
    module, batch, split = checked
    assert split.crossing == {"1": Crossing.LABEL}
    wrong = dataclasses.replace(split, crossing={}, private=("0", "1"))
    assert "with blank private inputs, its halves give a loss of" in agreement(module, batch, wrong)


def test_a_stub_that_the_server_needs_changes_the_loss(checked):
    module, batch, split = checked
    assert "its halves give a loss of" in agreement(module, batch, dataclasses.replace(split, stubs=("a", "b")))


def test_parameters_on_the_wrong_side_are_named(checked):
    module, batch, split = checked
    gates = []
    handle = module.norm.register_forward_hook(lambda _m, _i, output: gates.append(output.grad_fn))
    loss = module.training_step(batch, 0)
    handle.remove()
    gate = gates[0]
    # The gate stands behind the norm here, so its own weights are reached from the gate's inputs.
    assert autograd_disagreement(module, split, loss, {"norm": [gate]}) is None
    moved = dataclasses.replace(
        split,
        client_parameters=(*split.client_parameters, "b.weight"),
        server_parameters=tuple(name for name in split.server_parameters if name != "b.weight"),
    )
    assert "reach ['b.weight'] without passing 'norm'" in autograd_disagreement(module, moved, loss, {"norm": [gate]})
    moved = dataclasses.replace(
        split,
        client_parameters=tuple(name for name in split.client_parameters if name != "a.bias"),
        server_parameters=(*split.server_parameters, "a.bias"),
    )
    assert "reach ['a.bias'] from 'norm', although the server" in autograd_disagreement(
        module, moved, loss, {"norm": [gate]}
    )
