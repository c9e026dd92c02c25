"""What stands around the cut module runs on both sides of a merged step: counters, and draws of random numbers."""

import pytest
import torch
from round_cases import Loses, assert_close, data, descent, network, train
from sfl_models import MLP, Classifier, fit, same, sgd
from torch import nn

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.cut.find import search


class Counted(nn.Sequential):
    """Counts its passes before its first layer."""

    def __init__(self, *layers) -> None:
        super().__init__(*layers)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


class Busy(Classifier):
    """Counts steps in place and anew, and adds noise to the input, all before the cut."""

    def __init__(self, model, optimizer) -> None:
        super().__init__(model, optimizer, schedule=False)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("decay", torch.tensor(1.0))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.steps += 1
        self.decay = self.decay * 0.9
        return super().training_step((x + torch.randn_like(x), y), batch_idx)


def busy(optimizer=sgd) -> Busy:
    torch.manual_seed(0)
    first = Counted(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Tanh())
    return Busy(nn.Sequential(first, nn.Dropout(0.5), nn.Linear(6, 4)), optimizer)


def test_the_counters_stand_on_either_side():
    split = search(busy(), MLP.batch()).split("model.0.3")
    assert "model.0.passes" in split.client_buffers
    assert {"steps", "decay"} <= {*split.server_buffers} - {*split.client_buffers}


@pytest.mark.parametrize("way", ["per_client", "merged"])
def test_law_1_holds_for_what_runs_before_the_cut_outside_of_modules(way):
    """The server's program runs it again: it counts once all the same, and dropout goes on where the noise ended."""
    strategy = SplitFederatedStrategy(
        cut="model.0.3", num_clients=1, partition=[list(range(10))], aggregate_every=2, server_batching=way
    )
    results = []
    for used in ("auto", strategy):
        module = busy()
        fit(module, MLP.loader(10, 4, shuffle=True), used, max_epochs=2)
        results.append((module.state_dict(), torch.get_rng_state()))
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert int(module.steps) == 6


def test_the_server_counts_a_merged_step_once():
    """Three clients, three steps: each client has made three passes, the server has run three times, not nine."""
    module = busy()
    strategy = SplitFederatedStrategy(cut="model.0.3", num_clients=3, server_batching="merged", batch_size=2)
    fit(module, MLP.loader(18, 2), strategy, max_epochs=1)
    assert (int(module.steps), int(module.model[0].passes)) == (3, 3)
    torch.testing.assert_close(module.decay, torch.tensor(0.9**3))


def test_clients_counters_stay_as_they_were_after_a_round_of_which_all_are_lost():
    """The server's program runs around its stubs through the container that counts for the clients."""
    layers = network()
    module = Classifier(nn.Sequential(Counted(*layers[:3]), *layers[3:]), descent, schedule=False)
    lost = {(client, "before_upload", 2) for client in range(3)}
    train("model.0.2", module=module, server_batching="merged", attendance=Loses(lost), steps=3)
    assert int(module.model[0].passes) == 0
    train("model.0.2", module=module, server_batching="merged", steps=3)
    assert int(module.model[0].passes) == 3


class Scales(nn.Linear):
    """Multiplies by a buffer, which its graph needs for the gradient."""

    def __init__(self) -> None:
        super().__init__(6, 8)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return super().forward(x) * self.scale


def test_buffers_are_put_back_under_graphs_of_others_that_wait_for_gradients():
    """Client 1 is left out of every step, after client 0 has run its half; the others train on."""
    images, labels = data()
    images[8:12] = torch.nan
    ends = []
    for way in ("merged", "per_client"):
        torch.manual_seed(0)
        module = Classifier(nn.Sequential(Scales(), *network(norm=False)[2:]).double(), descent, schedule=False)
        ends.append(
            train("model.0", module=module, xy=(images, labels), nonfinite="skip", server_batching=way, steps=6)
        )
    assert_close(ends[0].weights, ends[1].weights)
