import multiprocessing
import operator

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

from lightning_sfl.data.client_loaders import ClientLoaders, partition_of
from lightning_sfl.data.loader import client_loader
from lightning_sfl.data.partition import IID
from lightning_sfl.schedule import ParallelSchedule, SequentialSchedule


def numbers(start, size):
    return TensorDataset(torch.arange(start, start + size))


def loaders(sizes=(5, 3, 4), batch_sizes=(2, 3, 1), **options):
    """Client 0 holds 0 to 4, client 1 holds 100 to 102, client 2 holds 200 to 203."""
    return {
        client: DataLoader(numbers(100 * client, size), batch_size=batch_size, **options)
        for client, (size, batch_size) in enumerate(zip(sizes, batch_sizes, strict=True))
    }


def deal(given, handed=None, *, kind=ParallelSchedule, per_round=None, in_order=False, **options):
    schedule = kind(num_clients=len(given), clients_per_round=per_round or len(given), steps_per_round=1, seed=0)
    return client_loader(
        given[0] if handed is None else handed,
        partition=partition_of(given, len(given)),
        num_clients=len(given),
        batch_size=options.pop("batch_size", None),
        schedule=schedule,
        seed=0,
        in_order=in_order,
    )


def values(step):
    return {client: batch[0].tolist() for client, batch in step.batches.items()}


def test_every_client_has_its_own_data_in_its_own_batch_size():
    """12 samples in steps of 2 + 3 + 1: two steps. Client 0 goes on with 4 in the next epoch, client 1 starts over."""
    loader = deal(loaders())
    assert len(loader) == 2
    assert [values(step) for _ in range(2) for step in loader] == [
        {0: [0, 1], 1: [100, 101, 102], 2: [200]},
        {0: [2, 3], 1: [100, 101, 102], 2: [201]},
        {0: [4], 1: [100, 101, 102], 2: [202]},
        {0: [0, 1], 1: [100, 101, 102], 2: [203]},
    ]


def test_the_training_set_is_the_clients_data_one_after_the_other():
    given = loaders()
    loader = deal(given)
    assert [part.tolist() for part in loader.parts] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    assert [loader.dataset[place][0] for place in (4, 5, 8)] == [4, 100, 200]
    assert next(iter(loader)).indices == {0: (0, 1), 1: (5, 6, 7), 2: (8,)}


def test_a_data_set_that_clients_share_is_there_once_for_each():
    shared = numbers(0, 4)
    loader = deal({client: DataLoader(shared, batch_size=2) for client in range(2)})
    assert [part.tolist() for part in loader.parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert values(next(iter(loader))) == {0: [0, 1], 1: [0, 1]}


def test_one_clients_data_set_is_its_own():
    """It is what the user's `worker_init_fn` looks at."""
    given = loaders((5,), (2,))
    assert deal(given).dataset is given[0].dataset


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_an_epochs_length_goes_by_every_clients_batch_size(batch_size, drop_last):
    """Parallel, 2 of 3 clients per round: 2 · (2 + 3 + 1)/3 = 4 samples a step for the 12, 3 steps. One by one:
    ⌈5/2⌉ + ⌈3/3⌉ + ⌈4/1⌉ = 8 steps, ⌊5/2⌋ + 1 + 4 = 7 where short batches are dropped.

    A batch size of 4 for all holds 4 + 3 + 4: 12/(2 · 11/3) = 1.6, and 2 + 1 + 1 or 1 + 1 + 1 steps one by one.
    """
    given = loaders(drop_last=drop_last)
    parallel = deal(given, per_round=2, batch_size=batch_size)
    one_by_one = deal(given, kind=SequentialSchedule, per_round=2, batch_size=batch_size)
    expected = (3, 7 if drop_last else 8) if batch_size is None else ((1, 3) if drop_last else (2, 4))
    assert (len(parallel), len(one_by_one)) == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_it_is_one_loader_over_all_data_in_parts(shuffle, workers):
    """With equal batch sizes, the batches and the random state are those of index lists over the concatenation."""
    seen = []
    for own in (True, False):
        given = loaders(batch_sizes=(2, 2, 2), shuffle=shuffle, num_workers=workers)
        torch.manual_seed(3)
        if own:
            loader = deal(given)
        else:
            whole = ConcatDataset([loader.dataset for loader in given.values()])
            loader = client_loader(
                DataLoader(whole, batch_size=2, shuffle=shuffle, num_workers=workers),
                partition=partition_of([[*range(5)], [*range(5, 8)], [*range(8, 12)]], 3),
                num_clients=3,
                batch_size=None,
                schedule=ParallelSchedule(num_clients=3, clients_per_round=3, steps_per_round=1, seed=0),
                seed=0,
            )
        epochs = [[values(step) for step in loader] for _ in range(3)]
        seen.append((epochs, torch.get_rng_state().tolist()))
    assert seen[0] == seen[1]


def test_one_pool_of_workers_serves_all():
    loader = deal(loaders(num_workers=2))
    before = len(multiprocessing.active_children())
    steps = iter(loader)
    next(steps)
    assert len(multiprocessing.active_children()) - before == 2


def test_every_setting_of_the_loaders_is_kept():
    settings = {
        "collate_fn": list,
        "drop_last": True,
        "num_workers": 2,
        "generator": torch.Generator(),
        "worker_init_fn": print,
        "persistent_workers": True,
        "prefetch_factor": 3,
        "timeout": 7,
        "multiprocessing_context": "fork",
    }
    given = loaders(shuffle=True, **settings)
    joined = partition_of(given, 3).joined(given[0], in_order=False)
    for name in settings:
        assert getattr(joined, name) == getattr(given[0], name)
    assert isinstance(joined.sampler, RandomSampler)
    assert joined.sampler.generator is settings["generator"]


# Who stands in for the training loader


class Sized(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index


def test_the_loader_of_fit_may_be_any_clients_or_one_over_all_their_data():
    given = loaders()
    whole = ConcatDataset([loader.dataset for loader in given.values()])
    for handed in (*given.values(), DataLoader(whole, batch_size=7, shuffle=True)):
        assert values(next(iter(deal(given, handed)))) == {0: [0, 1], 1: [100, 101, 102], 2: [200]}


def copies(given):
    return ConcatDataset([numbers(100 * client, len(loader.dataset)) for client, loader in given.items()])


@pytest.mark.parametrize(
    "handed",
    [
        lambda given: DataLoader(given[0].dataset, batch_size=2),
        lambda given: DataLoader(copies(given)),
        lambda given: DataLoader(ConcatDataset([given[0].dataset, given[1].dataset])),
        lambda given: DataLoader(ConcatDataset([given[1].dataset, given[0].dataset, given[2].dataset])),
        lambda given: DataLoader(Sized()),
        lambda given: list(given.values()),
    ],
    ids=["a copy of a client's", "equal data", "too few", "another order", "other data", "no loader"],
)
def test_another_loader_of_fit_is_refused(handed):
    given = loaders()
    with pytest.raises(ValueError, match="neither one of the clients' loaders in partition= nor one over all"):
        deal(given, handed(given))


@pytest.mark.parametrize("count", [1, 3])
def test_in_order_the_loader_of_fit_may_be_a_copy_and_nothing_is_shuffled(count):
    """As Trainer(overfit_batches=...) makes it: Lightning hands over a copy of the user's loader that is in order."""
    given = loaders((5, 3, 4)[:count], (2, 3, 1)[:count], shuffle=True)
    loader = deal(given, DataLoader(given[0].dataset, batch_size=2), in_order=True)
    expected = {0: [0, 1], 1: [100, 101, 102], 2: [200]}
    assert values(next(iter(loader))) == {client: expected[client] for client in given}


# Bad input


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda own: {0: own[0], 1: own[1]}, r"loaders for \[0, 1\]; num_clients=3 needs one for every client, 0 to 2"),
        (lambda own: {1: own[0], 2: own[1], 3: own[2]}, r"loaders for \[1, 2, 3\]; num_clients=3"),
        (lambda own: {**own, 3: own[0]}, r"loaders for \[0, 1, 2, 3\]; num_clients=3"),
        (lambda own: {str(client): loader for client, loader in own.items()}, r"loaders for \['0', '1', '2'\]"),
        (lambda own: {}, r"loaders for \[\]; num_clients=3"),
        (lambda own: {**own, 1: [0, 1]}, r"partition\[1\]: The training loader is a list"),
        (lambda own: {**own, 2: DataLoader(Endless())}, r"partition\[2\]: The training set Endless is an iterable"),
        (
            lambda own: {**own, 2: DataLoader(numbers(0, 4), sampler=RandomSampler(range(4), replacement=True))},
            r"partition\[2\]: The training loader has its own sampler",
        ),
        (lambda own: {**own, 1: DataLoader(Subset(numbers(0, 4), []))}, r"partition\[1\]: the loader's data set is em"),
    ],
)
def test_loaders_that_are_not_one_per_client_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        partition_of(given(loaders()), 3)


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [
        ("collate_fn", {"collate_fn": list}, {"collate_fn": tuple}),
        ("shuffle", {}, {"shuffle": True}),
        ("drop_last", {}, {"drop_last": True}),
        ("num_workers", {"num_workers": 1}, {"num_workers": 2}),
        ("pin_memory", {}, {"pin_memory": True}),
        ("generator", {"generator": torch.Generator()}, {"generator": torch.Generator()}),
        ("generator", {}, {"generator": torch.Generator()}),
        ("worker_init_fn", {}, {"worker_init_fn": print}),
        ("persistent_workers", {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}),
        ("prefetch_factor", {"num_workers": 1}, {"num_workers": 1, "prefetch_factor": 5}),
        ("timeout", {}, {"timeout": 5}),
        (
            "multiprocessing_context",
            {"num_workers": 1, "multiprocessing_context": "fork"},
            {"num_workers": 1, "multiprocessing_context": "spawn"},
        ),
    ],
)
def test_loaders_that_one_pool_cannot_serve_are_refused_with_the_setting_the_clients_and_their_values(
    name, usual, other
):
    given = loaders(**usual)
    given[2] = DataLoader(numbers(0, 4), **other)
    with pytest.raises(ValueError, match=rf"client 0 has {name}=.*that of client 2 has {name}=") as raised:
        partition_of(given, 3)
    for loader in (given[0], given[2]):
        shown = name != "shuffle" and repr(operator.attrgetter(name)(loader))
        assert (shown or "True") in str(raised.value)


def test_samplers_with_generators_of_their_own_are_refused():
    def shuffled(data):
        return DataLoader(data, sampler=RandomSampler(data, generator=torch.Generator()))

    with pytest.raises(ValueError, match=r"client 1 has sampler.generator="):
        partition_of({0: shuffled(numbers(0, 3)), 1: shuffled(numbers(3, 3))}, 2)


def test_what_is_no_mapping_is_a_partition_of_another_kind():
    assert partition_of("iid", 3) == IID()
    assert isinstance(partition_of(loaders(), 3), ClientLoaders)
