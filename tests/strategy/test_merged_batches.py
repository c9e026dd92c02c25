"""`server_batching="merged"` on batches that cannot become one, and on first steps that are skipped."""

import pytest
import torch
from round_cases import assert_close, data, momentum, network, train
from sfl_models import Classifier, fit, same
from torch.nn.functional import cross_entropy

from lightning_sfl import SplitFederatedStrategy

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
