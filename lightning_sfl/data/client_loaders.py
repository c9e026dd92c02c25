"""A loader per client: the clients' own data sets are the parts, and one loader over all of them serves the steps."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler, SequentialSampler

from lightning_sfl.data.checks import check_loader
from lightning_sfl.data.partition import Indices, Labels, Partition, parse_partition


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientLoaders:
    """The partition that the clients' own loaders make: what is in a client's loader is the client's.

    The training set is the concatenation of the clients' data sets, in the order of the clients. There is one loader
    over it, with one pool of workers, so whatever of a loader is not the client's own (its data set, its batch size)
    has to be the same in all of them.

    Args:
        loaders: The loader of every client, in the order of the clients.
    """

    loaders: tuple[DataLoader[Any], ...]

    @classmethod
    def given(cls, loaders: Mapping[Any, object], num_clients: int) -> "ClientLoaders":
        """Check what the user gave.

        Raises:
            ValueError: There is not one loader for every client, a loader's samples cannot be dealt out, or the loaders
                differ in what has to be the same.
        """
        if set(loaders) != set(range(num_clients)):
            raise ValueError(
                f"partition has loaders for {list(loaders)!r}; num_clients={num_clients} needs one for every client,"
                f" 0 to {num_clients - 1}."
            )
        checked = []
        for client in range(num_clients):
            try:
                loader = check_loader(loaders[client])
            except ValueError as error:
                raise ValueError(f"partition[{client}]: {error}") from None
            if len(cast(Sized, loader.dataset)) == 0:
                raise ValueError(f"partition[{client}]: the loader's data set is empty; every client needs a sample.")
            checked.append(loader)
        _check_agreement(checked)
        return cls(loaders=tuple(checked))

    def __str__(self) -> str:
        return "a loader per client"

    @property
    def datasets(self) -> list[Dataset[Any]]:
        """The clients' data sets."""
        return [loader.dataset for loader in self.loaders]

    @property
    def batch_sizes(self) -> list[int]:
        """Every client's own batch size."""
        return [cast(int, loader.batch_size) for loader in self.loaders]

    def split(self, num_samples: int, num_clients: int, labels: Labels, seed: int) -> list[Indices]:
        """See :meth:`Partition.split`: consecutive ranges, one per client."""
        ends = np.cumsum([len(cast(Sized, dataset)) for dataset in self.datasets])
        return np.split(np.arange(num_samples), ends[:-1])

    def joined(self, handed: object, *, in_order: bool) -> DataLoader[Any]:
        """One loader over all clients' data sets.

        Args:
            handed: The loader that `fit` was given, which has to be one of the clients' or one over all their data.
            in_order: Whether it goes through the data in order, whatever the clients' loaders do. Lightning then hands
                over copies of the user's loaders.

        Raises:
            ValueError: ``handed`` is another loader.
        """
        if not self._stands_for_all(handed, copied=in_order):
            raise ValueError(
                "The training loader is neither one of the clients' loaders in partition= nor one over all their data,"
                " and the clients train on their own. Give fit one of those in partition=, or a DataLoader over"
                " torch.utils.data.ConcatDataset of their data sets, in the order of the clients."
            )
        first = self.loaders[0]
        if len(self.loaders) == 1 and not in_order:
            return first
        dataset = first.dataset if len(self.loaders) == 1 else ConcatDataset(self.datasets)
        sampler: RandomSampler | SequentialSampler = SequentialSampler(cast(Sized, dataset))
        if isinstance(first.sampler, RandomSampler) and not in_order:
            sampler = RandomSampler(cast(Sized, dataset), generator=first.sampler.generator)
        return DataLoader(
            dataset,
            batch_size=first.batch_size,
            sampler=sampler,
            num_workers=first.num_workers,
            collate_fn=first.collate_fn,
            pin_memory=first.pin_memory,
            drop_last=first.drop_last,
            timeout=first.timeout,
            worker_init_fn=first.worker_init_fn,
            multiprocessing_context=first.multiprocessing_context,
            generator=first.generator,
            prefetch_factor=first.prefetch_factor,
            persistent_workers=first.persistent_workers,
        )

    def _stands_for_all(self, handed: object, *, copied: bool) -> bool:
        if not isinstance(handed, DataLoader):
            return False
        if any(handed is loader or (copied and handed.dataset is loader.dataset) for loader in self.loaders):
            return True
        return isinstance(handed.dataset, ConcatDataset) and _are_same(handed.dataset.datasets, self.datasets)


def partition_of(
    partition: "str | Sequence[Sequence[int]] | Mapping[int, DataLoader[Any]] | Partition", num_clients: int
) -> Partition:
    """Make a partition from what the user gave: a loader for every client, or what :func:`parse_partition` takes.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(partition, Mapping):
        return ClientLoaders.given(partition, num_clients)
    return parse_partition(partition)


_SHARED: dict[str, Callable[[DataLoader[Any]], object]] = {
    "collate_fn": lambda loader: loader.collate_fn,
    "shuffle": lambda loader: isinstance(loader.sampler, RandomSampler),
    "drop_last": lambda loader: loader.drop_last,
    "num_workers": lambda loader: loader.num_workers,
    "pin_memory": lambda loader: loader.pin_memory,
    "generator": lambda loader: loader.generator,
    "sampler.generator": lambda loader: getattr(loader.sampler, "generator", None),
    "worker_init_fn": lambda loader: loader.worker_init_fn,
    "persistent_workers": lambda loader: loader.persistent_workers,
    "prefetch_factor": lambda loader: loader.prefetch_factor,
    "timeout": lambda loader: loader.timeout,
    "multiprocessing_context": lambda loader: loader.multiprocessing_context,
}
"""What one loader for all clients has one of."""


def _check_agreement(loaders: Sequence[DataLoader[Any]]) -> None:
    for name, value_of in _SHARED.items():
        expected = value_of(loaders[0])
        for client, loader in enumerate(loaders):
            if (value := value_of(loader)) != expected:
                raise ValueError(
                    f"partition: the loader of client 0 has {name}={expected!r}, that of client {client} has"
                    f" {name}={value!r}. One pool of workers serves all clients, so it must be the same in all loaders."
                )


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
