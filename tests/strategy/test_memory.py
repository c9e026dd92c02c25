"""Peak memory, as the design bounds it: every tensor that torch makes on the CPU is counted."""

import lightning.pytorch as pl
import pytest
import torch
from allocations import peak_tensor_byte
from sfl_models import quiet_trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy

CLIENTS, BATCH = 5, 16
IMAGE_BYTE = 3 * 16 * 16 * 4 + 8  # and a label


class Net(pl.LightningModule):
    """Activations of 16 images take 2.7 MiB on the client and 1.4 MiB behind it; weights take 0.1 and 0.5 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.client = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 5, padding=2, stride=2)
        )
        self.server = nn.Sequential(nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.MaxPool1d(8), nn.Linear(768, 100))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.head(self.server(self.client(batch[0]))), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def peak(strategy, batch_size) -> int:
    """Of a whole fit: the model, three steps or more, everything but the data set."""
    data = TensorDataset(torch.rand(CLIENTS * BATCH * 3, 3, 16, 16), torch.arange(CLIENTS * BATCH * 3) % 100)
    loader = DataLoader(data, batch_size=batch_size)
    return peak_tensor_byte(lambda: quiet_trainer(strategy=strategy, max_steps=6, max_epochs=-1).fit(Net(), loader))


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"cut": "client"}, ["client"]),
        ({"cut": "client", "server_batching": "merged"}, ["client"]),
        ({"cut": ("client", "server")}, ["client", "head"]),
        ({"cut": {client: "client" if client else "client.0" for client in range(CLIENTS)}}, ["client"]),
        ({"cut": "client", "algorithm": "splitfed_v1"}, ["client", "server", "head"]),
        ({"cut": "client", "algorithm": "splitfed_v2"}, ["client"]),
        ({"cut": "client", "algorithm": "split_learning"}, ["client"]),
        ({"algorithm": "fedavg"}, ["client", "server", "head"]),
    ],
    ids=["shared", "merged", "u_shape", "several cuts", "v1", "v2", "relay", "fedavg"],
)
def test_the_peak_is_a_plain_steps_and_the_participants_shards(options, own):
    """At most 1.2 plain steps at one client's batch (merged: at all of them), and for every participant its shard.

    A shard is three times its weights (gradients, momentum) and its buffers. The participants' batches of a step come
    on top: Lightning hands over a whole step's. Split learning has one participant at a time, and the sequential
    algorithms one batch.
    """
    sequential = options.get("algorithm") in ("splitfed_v2", "split_learning")
    participants = 1 if options.get("algorithm") == "split_learning" else CLIENTS
    merged = options.get("server_batching") == "merged"
    net = Net()
    shard = sum(3 * p.numel() * 4 for name in own for p in getattr(net, name).parameters())
    shard += sum(b.numel() * b.element_size() for name in own for b in getattr(net, name).buffers())
    batches = 0 if sequential or merged else (CLIENTS - 1) * BATCH * IMAGE_BYTE
    plain = peak("auto", BATCH * CLIENTS if merged else BATCH)
    strategy = SplitFederatedStrategy(num_clients=CLIENTS, batch_size=BATCH, aggregate_every=2, **options)
    found = peak(strategy, BATCH)
    assert found <= 1.2 * plain + participants * shard + batches, (found, plain, shard)
    assert found > plain


def test_memory_is_that_of_the_participants_alone():
    """Eight registered clients of which two take part take what two registered ones take, but for their batches."""
    few, many = (
        peak(SplitFederatedStrategy(cut="client", num_clients=count, clients_per_round=2), BATCH) for count in (2, 8)
    )
    assert many <= 1.02 * few
