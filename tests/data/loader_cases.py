"""Data whose samples name themselves, and client loaders over them."""

import itertools

import torch
from torch.utils.data import (
    Dataset,
    TensorDataset,
)

from lightning_sfl.data.loader import client_loader
from lightning_sfl.data.partition import parse_partition
from lightning_sfl.schedule import ParallelSchedule


class Noisy(Dataset):
    """Sample i is i, and a number drawn from the global generator, as an augmentation would draw it."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index, torch.rand(())


def numbers(size):
    return TensorDataset(torch.arange(size))


def deal(
    loader,
    *,
    partition="iid",
    num_clients=1,
    clients_per_round=None,
    steps_per_round=1,
    batch_size=None,
    seed=0,
):
    schedule = ParallelSchedule(
        num_clients=num_clients,
        clients_per_round=clients_per_round or num_clients,
        steps_per_round=steps_per_round,
        seed=seed,
    )
    return client_loader(
        loader,
        partition=parse_partition(partition),
        num_clients=num_clients,
        batch_size=batch_size,
        schedule=schedule,
        seed=seed,
    )


def epoch(loader):
    """One epoch as Lightning fetches it: as many batches as the loader is long, and no question after the last."""
    return list(itertools.islice(iter(loader), len(loader)))


def places(steps):
    """The places each step visits, by client."""
    return [step.indices for step in steps]


def visits(steps, client):
    """The places a client visits, one after the other."""
    return [place for step in steps for place in step.indices.get(client, ())]
