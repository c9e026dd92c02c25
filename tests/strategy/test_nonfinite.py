"""Losses and updates that are no numbers: the client is named, or left out; it is never averaged in."""

import lightning.pytorch as pl
import pytest
import torch
from round_cases import ALGORITHMS, adamw, assert_close, data, job, momentum, network, straight, train
from sfl_models import Classifier, fit, same
from torch import nn

from lightning_sfl import SplitFederatedStrategy

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


class Overflows(Classifier):
    """The loss of a batch with a marked label is infinite."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x, y.clamp(min=0)), batch_idx) + (torch.inf if y.min() < 0 else 0)


def spoilt(loss: str, places: list[int]):
    """The data, and at these places samples that make the loss of their batch NaN or infinite."""
    images, labels = data()
    if loss == "nan":
        images[places] = torch.nan
    else:
        labels[places] = -100
    return images, labels


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_client_whose_loss_is_no_number_is_left_out_of_the_step(algorithm, loss):
    """Client 0 has one such batch in two, client 1 none but such, and is the first of some runs.

    The server's running statistics do not see these batches either.
    """
    xy, steps = spoilt(loss, [3, *range(8, 12)]), 18 if algorithm in ("splitfed_v2", "split_learning") else 9
    module = Overflows(network(), momentum, schedule=False)
    found = train(algorithm=algorithm, xy=xy, steps=steps, module=module, nonfinite="skip")
    left_out = {
        (client, "skipped", place)
        for place, step in enumerate(found.asks.steps)
        for client, indices in step.items()
        if {3, 8, 9, 10, 11} & set(indices)
    }
    told = job(found, momentum, xy=xy)
    assert all(bool(tensor.isfinite().all()) for tensor in found.weights.values())
    assert_close(found.weights, straight(told, algorithm, lost=left_out))


@pytest.mark.parametrize("everybody", [False, True])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "fedavg"])
def test_a_loss_that_is_no_number_in_the_very_first_step(algorithm, everybody):
    """Client 0 in every batch; or all of them, which leaves the model as it was, running statistics included."""
    xy = spoilt("nan", [*range(18 if everybody else 8)])
    found = train(algorithm=algorithm, xy=xy, steps=4, nonfinite="skip")
    clients = range(3) if everybody else [0]
    lost = {(client, "skipped", step) for client in clients for step in range(4)}
    assert_close(found.weights, straight(job(found, momentum, xy=xy), algorithm, lost=lost))


@pytest.mark.parametrize("way", ["per_client", "merged"])
def test_a_step_that_the_module_skips_leaves_its_running_statistics_as_in_plain_lightning(way):
    """Law 1: the third of a round of five steps returns None after its forward, which is no loss that is no number."""

    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 2 else loss

    strategy = SplitFederatedStrategy(
        cut="model.2", num_clients=1, partition=[[*range(18)]], nonfinite="skip", server_batching=way, aggregate_every=5
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=4)
    ends = []
    for used in ("auto", strategy):
        module = Skips(network(), momentum, schedule=False)
        fit(module, loader, used, max_epochs=1, precision="64-true")
        ends.append(module.state_dict())
    assert same(*ends)


@pytest.mark.parametrize("client", [0, 2])
@pytest.mark.parametrize("loss", ["nan", "inf"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "fedavg"])
def test_by_default_it_is_an_error_that_names_the_client(algorithm, loss, client):
    """In step 0. Nothing has been averaged: the clients' weights are those that the run began with."""
    xy = spoilt(loss, [*range(8)] if client == 0 else [*range(12, 18)])
    module = Overflows(network(), momentum, schedule=False)
    with pytest.raises(ValueError, match=f"Client {client} has a loss of {loss}. nonfinite='skip' leaves such a"):
        train(algorithm=algorithm, xy=xy, module=module)
    assert torch.equal(module.model[0].weight, network()[0].weight)


class Bursts(nn.Linear):
    """The gradient of a batch with a marked sample is multiplied: its weights, or its moments, cease to be numbers."""

    factor = 1.0

    def forward(self, x):
        hidden = super().forward(x)
        if hidden.requires_grad and x.max() > 50:
            hidden.register_hook(lambda gradient: gradient * self.factor)
        return hidden


def bursting(factor: float) -> nn.Sequential:
    layers = network(norm=False)
    layers[0].__class__, layers[0].factor = Bursts, factor
    return layers


OF_TWELVE = [[*range(12)], [*range(12, 24)], [*range(24, 36)]]


def with_an_update_that_is_no_number(algorithm, factor, **options):
    """The last of client 0's twelve samples is marked: of three batches of four in a round, it bursts in the third.

    A gradient of NaN makes weights NaN. One of 1e200 squares to infinity in AdamW's second moment, which leaves the
    weights numbers, and would keep every client's weights where they are from then on.
    """
    images, labels = data(36)
    images[11] = 60
    run = train(
        algorithm=algorithm, xy=(images, labels), parts=OF_TWELVE, shuffle=False, steps=6, optimizer=adamw,
        module=Classifier(bursting(factor), adamw, schedule=False), **options,
    )  # fmt: skip
    return run, job(run, adamw, parts=OF_TWELVE, xy=(images, labels))


@pytest.mark.parametrize("factor", [float("nan"), 1e200])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_an_update_that_is_no_number_is_not_averaged_in(algorithm, factor):
    found, told = with_an_update_that_is_no_number(algorithm, factor, nonfinite="skip")
    lost = {(0, "before_upload", 2), (0, "before_upload", 5)}
    assert_close(found.weights, straight(told, algorithm, lost=lost, begin=bursting(factor)))
    assert {message.client for message in found.log.messages(kinds=["client_update"])} == {1, 2}


@pytest.mark.parametrize("factor", [float("nan"), 1e200])
def test_an_update_that_is_no_number_is_an_error_that_names_the_client(factor):
    with pytest.raises(ValueError, match="The update of client 0 holds NaN or infinite values. nonfinite='skip'"):
        with_an_update_that_is_no_number("splitfed_shared", factor)


class Breaks(nn.Tanh):
    """On the server: the gradient of a batch of two is NaN, its loss is a number."""

    def forward(self, x):
        hidden = super().forward(x)
        if hidden.requires_grad and len(x) == 2:
            hidden.register_hook(lambda gradient: gradient * torch.nan)
        return hidden


class Server(pl.Callback):
    """Notes the server's weights after every step, and which steps had a batch of two."""

    def __init__(self) -> None:
        self.weights, self.broken = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.model[3:].parameters()]))
        self.broken.append(any(len(own) == 2 for own in batch.indices.values()))


def breaking() -> Classifier:
    layers = network(norm=False)
    layers[8] = Breaks()
    return Classifier(layers, momentum, schedule=False)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "split_learning"])
def test_server_gradients_that_are_no_numbers_are_an_error(algorithm):
    """Client 2 has 6 samples: every other batch of its has two."""
    message = r"The server's gradients in step \d+ hold NaN or infinite values; the losses of clients \[.*2.*\]"
    with pytest.raises(ValueError, match=message):
        train(algorithm=algorithm, module=breaking(), steps=18)


@pytest.mark.parametrize(
    "options", [{}, {"trainer_options": {"accumulate_grad_batches": 2}}, {"algorithm": "splitfed_v2"}]
)
def test_server_gradients_that_are_no_numbers_are_not_stepped_on(options):
    """The server stays where it is in such a step. Client 2 has no loss in the rest of the round, and no update."""
    server = Server()
    found = train(module=breaking(), nonfinite="skip", callbacks=[server], steps=9, **options)
    assert all(bool(tensor.isfinite().all()) for tensor in found.weights.values())
    assert any(server.broken)
    turns, seen = found.asks.rounds, set()
    if not options:
        pairs = zip(server.weights, server.weights[1:], server.broken[1:], turns[1:], strict=False)
        for before, after, broken, turn in pairs:
            assert torch.equal(before, after) == (broken and turn not in seen)
            seen |= {turn} if broken else set()
    broken_rounds = {turn for turn, broken in zip(found.asks.rounds, server.broken, strict=True) if broken}
    sent = {(m.round, m.client) for m in found.log.messages(kinds=["client_update"])}
    assert not {(turn, 2) for turn in broken_rounds} & sent


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="nonfinite='ignore' is not known. Accepted are 'error', 'skip'"):
        SplitFederatedStrategy(nonfinite="ignore")
