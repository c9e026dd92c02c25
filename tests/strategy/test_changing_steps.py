"""Training steps that change with the epoch: watched again, at least 50 steps after the last time."""

import pytest
import torch
from sfl_models import MLP, VGG, Classifier, adamw, fit, mlp, quiet_trainer, same
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from lightning_sfl import CutError, MessageLog, SplitFederatedStrategy
from lightning_sfl.link.message import MessageKind
from lightning_sfl.strategy import known_splits
from lightning_sfl.strategy.first_step import watched_step

LATER = 5
"""The epoch from which the steps below do something else."""


class Changing(Classifier):
    """Counts its steps; from a later epoch on there is more to its loss."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), adamw, schedule=False)
        self.extra = nn.Linear(16, 192)
        self.steps = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        before = self.model[1](self.model[0](x))
        hidden = self.model[2](before)
        loss = cross_entropy(self.model[3:](hidden), y)
        if self.current_epoch >= LATER:
            loss = loss + self.more(x, before, hidden)
        self.steps += 1
        return loss


class ReadsTheInput(Changing):
    def more(self, x, before, hidden):
        return mse_loss(self.extra(hidden), x.flatten(1))


class GoesAround(Changing):
    def more(self, x, before, hidden):
        return self.extra(before).square().mean()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ReadsTheInput, r"cut='model.2': the server half reads '0', an input of the model.*has no valid cut"),
        (GoesAround, r"cut='model.2': a path leads around this module.*Valid cuts are 'model"),
    ],
)
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_a_step_that_breaks_its_cut_later_is_refused_when_it_is_watched_again(kind, message, algorithm):
    """Epochs of one step: the first was watched, step 50 is the first at least 50 later. It runs, and is refused.

    Both clients ran steps 0 to 49, 100 in all, and client 0 ran step 50.
    """
    module = kind()
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, algorithm=algorithm)
    trainer = quiet_trainer(strategy=used, max_epochs=60)
    with pytest.raises(CutError, match=message):
        trainer.fit(module, MLP.loader(4, 2))
    assert trainer.global_step == 50
    assert module.steps == 101


@pytest.mark.parametrize("way", ["per_client", "merged"])
def test_a_step_whose_clients_need_other_weights_later_is_refused(way):
    """A layer that nobody read, and that was the server's, is read before the cut: the cut would be valid."""

    class Grows(Classifier):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(mlp(), adamw, schedule=False)
            self.extra = nn.Linear(16, 16)

        def training_step(self, batch, batch_idx):
            x, y = batch
            hidden = self.model[:2](x)
            if self.current_epoch >= LATER:
                hidden = hidden + self.extra(hidden)
            return cross_entropy(self.model[2:](hidden), y)

    module = Grows()
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, server_batching=way)
    trainer = quiet_trainer(strategy=used, max_epochs=60)
    with pytest.raises(CutError, match="cut='model.2': the training step has changed, and other weights lie before"):
        trainer.fit(module, MLP.loader(4, 2))
    assert trainer.global_step == 50


def test_labels_that_are_read_from_a_later_epoch_on_cross_once_the_step_was_watched_again():
    """Epochs of 2 steps, so that step 50, at least 50 after the first, begins epoch 25."""

    class Late(Classifier):
        def training_step(self, batch, batch_idx):
            (x, first), second = batch["own"], batch["second"]
            return cross_entropy(self.model(x), first if self.current_epoch < LATER else second)

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            image, label = MLP.dataset(8)[index]
            return {"own": (image, label), "second": (label + 1) % 4}

    torch.manual_seed(0)
    log = MessageLog()
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, message_log=log)
    loader = torch.utils.data.DataLoader(Data(), batch_size=2)
    fit(Late(mlp(), adamw), loader, used, max_epochs=28)
    sent = {message.step: set(message.tensors) for message in log.messages(kinds=[MessageKind.LABEL])}
    assert sent == {step: {"own.1"} if step < 50 else {"second"} for step in range(56)}


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_watching_again_leaves_no_trace(algorithm, monkeypatch):
    """Law 1 over 112 steps in 56 epochs, of which steps 0, 50 and 100 are watched; with normalisation and dropout."""
    results, watched = [], []

    def noted(module, *rest):
        watched.append(module.trainer.global_step)
        return watched_step(module, *rest)

    monkeypatch.setattr(known_splits, "watched_step", noted)
    used = SplitFederatedStrategy(cut="model.2", num_clients=1, aggregate_every=3, algorithm=algorithm)
    for strategy in ("auto", used):
        module = VGG.module(adamw)
        fit(module, VGG.loader(8, 4, shuffle=True), strategy, max_epochs=56)
        results.append((module.state_dict(), torch.get_rng_state()))
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert watched == [0, 50, 100]
    assert used.link.meter.total(MessageKind.SMASHED).messages == 112
    assert used.link.meter.total(MessageKind.LABEL).messages == 112
