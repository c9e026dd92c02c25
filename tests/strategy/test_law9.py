"""Law 9: cost grows linearly in participants, and not at all in clients that only exist.

Cost is counted, not timed: calls of Python functions in one training step, and tensors held.
"""

import gc
import sys

import lightning.pytorch as pl
import pytest
import torch
from sfl_models import MLP, fit, sgd

from lightning_sfl import SplitFederatedStrategy


def held() -> int:
    """Elements of all parameters that are alive, those of earlier tests too."""
    return sum(t.numel() for t in gc.get_objects() if type(t) is torch.nn.Parameter)


class CallCounter(pl.Callback):
    """Counts function calls from the start of one batch to the start of the next, once everything is warm."""

    def __init__(self, at_step: int) -> None:
        self.at_step = at_step
        self.calls = 0
        self.held = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at_step:
            sys.setprofile(self.count)
        elif trainer.global_step == self.at_step + 1:
            sys.setprofile(None)
            gc.collect()
            self.held = held()

    def count(self, frame, event, argument):
        self.calls += event == "call"


def cost(registered: int, participants: int) -> tuple[int, int]:
    """(calls per step, parameter elements alive) with this many clients, one batch of 2 samples each."""
    gc.collect()
    before = held()
    counter = CallCounter(at_step=3)
    used = SplitFederatedStrategy(
        cut="model.2", num_clients=registered, clients_per_round=participants, aggregate_every=1, batch_size=2
    )
    fit(
        MLP.module(sgd),
        MLP.loader(2 * registered, 2, shuffle=True),
        used,
        callbacks=[counter],
        max_steps=6,
        max_epochs=-1,
    )
    return counter.calls, counter.held - before


@pytest.mark.slow
@pytest.mark.parametrize("participants", [5])
def test_clients_that_only_exist_cost_nothing(participants):
    few, many = cost(60, participants), cost(3000, participants)
    assert many[0] == pytest.approx(few[0], rel=0.01)
    assert many[1] == few[1]


@pytest.mark.slow
def test_cost_is_linear_in_participants():
    calls = [cost(200, participants)[0] for participants in (5, 10, 15)]
    assert calls[2] - calls[1] == pytest.approx(calls[1] - calls[0], rel=0.03)
    assert calls[1] < 2 * calls[0]


def test_parameters_held_are_the_modules_and_one_shard_per_participant():
    """MLP: 192·16+16 before the cut; 16·12+12 + 12·4+4 behind it."""
    client, server = 192 * 16 + 16, 16 * 12 + 12 + 12 * 4 + 4
    assert cost(40, 7)[1] == client + server + 7 * client
