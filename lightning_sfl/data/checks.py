"""Which training loaders have samples that can be dealt out to clients."""

from collections.abc import Sized
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler


def check_loader(loader: object) -> DataLoader[Any]:
    """Return the loader if its samples can be dealt out to clients.

    Raises:
        ValueError: They cannot: it is no map-style ``DataLoader`` with automatic batching and a plain order.
    """
    accepted = "Accepted is a torch DataLoader over a map-style dataset with batch_size= and shuffle=."
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        raise ValueError(
            f"The training loader is a {type(loader).__name__}, whose samples cannot be dealt out. {accepted}"
        )
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ValueError(
            f"The training set {type(loader.dataset).__name__} is an iterable dataset without length or indices, so its"
            f" samples cannot be dealt out to clients. {accepted}"
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        raise ValueError(f"The training loader has batch_size=None, so it makes no batches of samples. {accepted}")
    if type(loader.batch_sampler) is not BatchSampler:
        raise ValueError(
            f"The training loader has its own batch_sampler, {type(loader.batch_sampler).__name__}; the partition"
            f" takes its place. {accepted}"
        )
    sampler = loader.sampler
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    in_order = type(sampler) is SequentialSampler
    if not (shuffles or in_order) or len(cast(Sized, sampler)) != len(loader.dataset):
        raise ValueError(
            f"The training loader has its own sampler ({type(sampler).__name__}); the partition replaces it. {accepted}"
        )
    return loader
