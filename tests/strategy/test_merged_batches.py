"""`server_batching="merged"` on batches that cannot become one, on batches that can, and on steps that are skipped."""

import itertools

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from round_cases import assert_close, data, momentum, network, train
from sfl_models import Classifier, fit, same
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import MessageLog, SplitFederatedStrategy

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


class TimeFirst(Classifier):
    """Turns records and time round before the cut, as `torch.nn.Transformer` does by default."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return cross_entropy(self.model(torch.stack([x, x])).mean(0), y)


def test_smashed_data_without_a_row_per_record_are_refused():
    """Two places of 4 records each: one below the other they would have been 6 places of 4."""
    module = TimeFirst(network(norm=False), momentum, schedule=False)
    with pytest.raises(ValueError, match=r"smashed data 0 of client 0 have the shape \(2, 4, 8\) for a batch of 4"):
        train(server_batching="merged", module=module)


def test_values_that_are_no_tensors_and_differ_are_refused():
    """The server would have used the first client's for all."""

    def weighted(samples):
        return [*torch.utils.data.default_collate(samples), {"weight": float(samples[0][1])}]

    images, _ = data()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.arange(18) % 3), batch_size=4, collate_fn=weighted
    )

    class Weighs(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx) * batch[2]["weight"]

    strategy = SplitFederatedStrategy(
        cut="model.2", num_clients=2, partition=[[*range(10)], [*range(10, 18)]], server_batching="merged"
    )
    module = Weighs(network(), momentum, schedule=False)
    with pytest.raises(ValueError, match="'2.weight' in the batch is no tensor and differs from client to client"):
        fit(module, loader, strategy, max_epochs=1, precision="64-true")


class SkipsFirst(Classifier):
    """Skips batches with a marked label in the first step, which is the one that would tell whose is what."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        if batch_idx == 0 and y.min() < 0:
            return None
        return super().training_step((x, y.clamp(min=0)), batch_idx)


@pytest.mark.parametrize("marked", [8, 18], ids=["first client", "everybody"])
@pytest.mark.parametrize("cut", ["model.2", None])
def test_the_first_step_may_be_skipped(marked, cut):
    """By client 0, or by all; then the next batch tells. It ends like a run client by client, and has trained."""
    images, labels = data()
    labels[:marked] = -100
    ends = [
        train(
            cut,
            module=SkipsFirst(network(norm=False), momentum, schedule=False),
            xy=(images, labels),
            steps=4,
            server_batching=way,
        )
        for way in ("merged", "per_client")
    ]
    assert_close(ends[0].weights, ends[1].weights)
    assert not same(ends[0].weights, network(norm=False).state_dict())


@pytest.mark.parametrize("way", ["merged", "per_client"])
def test_a_later_step_may_be_skipped_by_everybody_where_it_would_tell_anew(way):
    """Step 50 begins an epoch, at least 50 after the last watched one: it is to tell again, and has nothing to."""

    class SkipsLater(Classifier):
        def training_step(self, batch, batch_idx):
            return None if self.current_epoch == 50 else super().training_step(batch, batch_idx)

    module = SkipsLater(network(norm=False), momentum, schedule=False)
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=2, server_batching=way, batch_size=4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(8)), batch_size=4)
    weights = []

    def keep(trainer, pl_module, *_):
        weights.append(pl_module.model[9].weight.detach().clone())

    callbacks = [LambdaCallback(on_train_epoch_end=keep)]
    fit(module, loader, strategy, max_epochs=53, precision="64-true", callbacks=callbacks)
    still = [torch.equal(one, other) for one, other in itertools.pairwise(weights)]
    assert still == [epoch == 50 for epoch in range(1, 53)]


class Scaled(Classifier):
    """Reads, beside the smashed data, how many rows the private images have; before the cut, a number too."""

    def training_step(self, batch, batch_idx):
        hidden = self.model(batch["x"] * batch["scale"])
        return cross_entropy(hidden, batch["y"], reduction="sum") / len(batch["x"])


def test_what_is_private_stands_blank_at_the_server_in_the_merged_batchs_size():
    """It ends like a run client by client; the number stays one number."""
    images, labels = data()

    def collate(places):
        return {"x": images[places], "scale": torch.tensor(0.5), "y": labels[places]}

    def run(way):
        log = MessageLog()
        strategy = SplitFederatedStrategy(
            cut="model.2", num_clients=2, partition=[[*range(10)], [*range(10, 18)]], server_batching=way,
            message_log=log,
        )  # fmt: skip
        module = Scaled(network(norm=False), momentum, schedule=False)
        loader = torch.utils.data.DataLoader(range(18), batch_size=4, collate_fn=collate)
        fit(module, loader, strategy, max_epochs=2, precision="64-true")
        assert {name for m in log.messages(kinds=["label", "mask", "input"]) for name in m.tensors} == {"y"}
        return module.state_dict()

    assert_close(run("merged"), run("per_client"))


class Sorts(nn.Linear):
    """Gives classes of its records beside what it computes."""

    def forward(self, x):
        hidden = super().forward(x)
        return hidden, (x[:, 0] > 0).long()


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(2, 8)
        self.rest = network(norm=False)[2:]

    def forward(self, given):
        hidden, kinds = given
        return self.rest(hidden + self.classes(kinds))


def test_smashed_data_without_a_gradient_are_shared_out_too():
    """Whole numbers that cross beside the others: no gradient of theirs comes back."""
    ends = []
    for way in ("merged", "per_client"):
        torch.manual_seed(0)
        layers = nn.Sequential(Sorts(6, 8), Embeds()).double()
        module = Classifier(layers, momentum, schedule=False)
        found = train("model.0", module=module, server_batching=way, steps=6)
        ends.append(found.weights)
        assert {len(m.tensors) for m in found.log.messages(kinds=["smashed"])} == {2}
        assert {len(m.tensors) for m in found.log.messages(kinds=["cut_gradient"])} == {1}
    assert_close(*ends)
