"""Loaders and partitions whose samples cannot be dealt out."""

import pytest
import torch
from loader_cases import deal, epoch, numbers, places
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_sfl.data.checks import check_loader

# What is refused


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class WithoutLength(Dataset):
    def __getitem__(self, index):
        return index


class OwnIteration(DataLoader):
    def __iter__(self):
        return iter(())


class OwnBatches(BatchSampler):
    pass


class OwnOrder(SequentialSampler):
    pass


ACCEPTED = r"Accepted is a torch DataLoader over a map-style dataset with batch_size= and shuffle="


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [1, 2, 3], r"The training loader is a list, whose samples cannot be dealt out"),
        (lambda: None, r"The training loader is a NoneType, whose samples cannot be dealt out"),
        (lambda: OwnIteration(numbers(4)), r"The training loader is a OwnIteration, whose samples cannot be dealt out"),
        (lambda: DataLoader(Stream()), r"The training set Stream is an iterable dataset without length or indices"),
        (
            lambda: DataLoader(Stream(), batch_size=None),
            r"The training set Stream is an iterable dataset without length or indices",
        ),
        (lambda: DataLoader(WithoutLength(), sampler=[0, 1]), r"The training set WithoutLength is an iterable dataset"),
        (lambda: DataLoader(numbers(4), batch_size=None), r"has batch_size=None, so it makes no batches of samples"),
        (
            lambda: DataLoader(numbers(4), batch_sampler=[[0, 1], [2, 3]]),
            r"has its own batch_sampler, list; the partition takes its place",
        ),
        (
            lambda: DataLoader(numbers(4), batch_sampler=OwnBatches(SequentialSampler(range(4)), 2, False)),
            r"has its own batch_sampler, OwnBatches; the partition takes its place",
        ),
        (
            lambda: DataLoader(numbers(4), sampler=WeightedRandomSampler([1.0] * 4, 4)),
            r"has its own sampler \(WeightedRandomSampler\); the partition replaces it",
        ),
        (
            lambda: DataLoader(numbers(4), sampler=OwnOrder(numbers(4))),
            r"has its own sampler \(OwnOrder\); the partition replaces it",
        ),
        (lambda: DataLoader(numbers(4), sampler=[3, 2, 1, 0]), r"has its own sampler \(list\)"),
        (
            lambda: DataLoader(numbers(4), sampler=RandomSampler(numbers(4), replacement=True)),
            r"has its own sampler \(RandomSampler\)",
        ),
        (
            lambda: DataLoader(numbers(4), sampler=RandomSampler(numbers(4), num_samples=2)),
            r"has its own sampler \(RandomSampler\)",
        ),
        (
            lambda: DataLoader(numbers(4), sampler=SequentialSampler(range(2))),
            r"has its own sampler \(SequentialSampler\)",
        ),
    ],
)
def test_a_loader_whose_samples_cannot_be_dealt_out_is_refused(make, message):
    loader = make()
    with pytest.raises(ValueError, match=rf"{message}.*{ACCEPTED}"):
        check_loader(loader)
    with pytest.raises(ValueError, match=message):
        deal(loader)


@pytest.mark.parametrize("shuffle", [False, True])
def test_plain_loaders_are_accepted_as_they_are(shuffle):
    loader = DataLoader(numbers(4), batch_size=2, shuffle=shuffle, drop_last=True)
    assert check_loader(loader) is loader
    own = DataLoader(numbers(4), sampler=RandomSampler(numbers(4), generator=torch.Generator()))
    assert check_loader(own) is own


def test_more_clients_than_samples_are_refused():
    with pytest.raises(ValueError, match=r"num_clients=5 is more than the training set has samples \(4\)"):
        deal(DataLoader(numbers(4)), num_clients=5)


class Dealt:
    """A user's partition that deals out what it is told."""

    def __init__(self, *parts):
        self.parts = parts

    def split(self, num_samples, num_clients, labels, seed):
        return list(self.parts)

    def __repr__(self):
        return "Dealt()"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), r"partition=Dealt\(\) dealt the samples out to 0 clients.*num_clients=2"),
        (([0, 1, 2, 3],), r"partition=Dealt\(\) dealt the samples out to 1 clients.*num_clients=2"),
        (([0, 1], [2]), r"or not each of the 4 samples to exactly one; num_clients=2"),
        (([0, 1], [1, 2, 3]), r"or not each of the 4 samples to exactly one; num_clients=2"),
        (([0, 1], [2, 4]), r"or not each of the 4 samples to exactly one; num_clients=2"),
        (([0, 1, 2, 3], []), r"partition=Dealt\(\) gave clients \[1\] no sample; every client needs one"),
    ],
)
def test_a_partition_object_that_does_not_deal_out_every_sample_once_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        deal(DataLoader(numbers(4)), partition=Dealt(*parts), num_clients=2)


def test_a_partition_object_may_give_plain_lists():
    loader = deal(DataLoader(numbers(4), batch_size=2), partition=Dealt([3, 0], [1, 2]), num_clients=2)
    assert places(epoch(loader)) == [{0: (3, 0), 1: (1, 2)}]


def test_a_partition_by_label_reads_the_labels_of_the_loaders_data_set():
    """Four labels of two samples, four clients with one shard each: one label per client."""
    dataset = TensorDataset(torch.zeros(8), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]))
    loader = deal(DataLoader(dataset, batch_size=2), partition="shards:1", num_clients=4)
    assert sorted(tuple(part.tolist()) for part in loader.parts) == [(0, 7), (1, 6), (2, 5), (3, 4)]
