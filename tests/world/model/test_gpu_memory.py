"""Client memory against a GPU's own allocator."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from real_halves import RealHalf
from torch import nn
from torch.nn.functional import cross_entropy
from world_cases import world

from lightning_sfl.cut.find import search
from lightning_sfl.world.model.measure import profile_cuts


class Wide(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.client = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.LayerNorm(2048), nn.Linear(2048, 1024))
        self.server = nn.Sequential(nn.ReLU(), nn.Linear(1024, 10))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.server(self.client(batch[0])), batch[1])


def allocated_byte(run) -> int:
    """The most that a GPU's allocator has handed out at one time while it runs, beyond what it had before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.gpu
def test_client_memory_is_what_the_allocator_hands_out():
    """Within 10 %, at a batch whose activations are many times the weights. Libraries' own workspaces are there
    already: the half has run before."""
    module, size = Wide().cuda(), 4096
    optimizer = torch.optim.AdamW(module.parameters(), foreach=False)
    batch = (torch.rand(size, 512, device="cuda"), torch.arange(size, device="cuda") % 10)
    split = search(module, batch).split("client")
    profile = profile_cuts(module, batch, {"client": split}, optimizer)
    half = RealHalf(module, split, batch, optimizer)

    train = half.peak_byte(half.train, allocated_byte)
    forward = half.peak_byte(half.forward, allocated_byte, with_state=False)

    assert profile.training_memory_byte(0, size) == pytest.approx(train, rel=0.1)
    assert profile.forward_memory_byte(0, size) == pytest.approx(forward, rel=0.1)
    probe = half.peak_byte(half.probe, allocated_byte)
    asked = world("ho_sfl", profile=profile).memory_at(np.array([0]), np.array([size]))
    assert float(asked[0]) == pytest.approx(probe, rel=0.1)
