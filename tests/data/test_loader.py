import gc
import io
import itertools
import multiprocessing
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
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
from lightning_sfl.data.loader import client_loader
from lightning_sfl.data.partition import parse_partition
from lightning_sfl.random_state import RandomState
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


# One client that holds everything


@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    shuffle=st.sampled_from(["no", "global", "generator"]),
    drop_last=st.booleans(),
)
def test_one_client_sees_the_plain_loaders_batches_in_their_order(size, batch_size, shuffle, drop_last):
    """And the random states after every epoch, the user's generator's too, are the plain run's."""
    assume(not drop_last or size >= batch_size)  # else the plain loader has no batch

    def run(wrap):
        generator = torch.Generator().manual_seed(5) if shuffle == "generator" else None
        torch.manual_seed(6)
        loader = wrap(
            DataLoader(
                Noisy(size), batch_size=batch_size, shuffle=shuffle != "no", drop_last=drop_last, generator=generator
            )
        )
        seen, states = [], []
        for _ in range(3):
            for batch in epoch(loader):
                index, noise = batch if wrap is plain else batch[0]
                seen.append((index.tolist(), noise.tolist()))
            states.append((torch.get_rng_state().tolist(), generator and generator.get_state().tolist()))
        return len(loader), seen, states

    def plain(loader):
        return loader

    assert run(deal) == run(plain)


@pytest.mark.parametrize(("size", "drop_last"), [(8, False), (7, False), (7, True)])
@pytest.mark.parametrize("own_generator", [False, True])
def test_one_client_sees_the_plain_loaders_batches_with_workers_too(size, drop_last, own_generator):
    """Workers fetch ahead, past the epoch's end: there a plain loader asks its sampler once more.

    What a sample draws in a worker is not the plain run's: it must not depend on the worker, nor on a resume.
    """

    def run(wrap):
        generator = torch.Generator().manual_seed(5) if own_generator else None
        torch.manual_seed(6)
        loader = wrap(
            DataLoader(Noisy(size), batch_size=2, shuffle=True, drop_last=drop_last, generator=generator, num_workers=2)
        )
        seen = []
        for _ in range(3):
            for batch in epoch(loader):
                index, _ = batch if wrap is plain else batch[0]
                seen.append(index.tolist())
        return seen, torch.get_rng_state().tolist(), generator and generator.get_state().tolist()

    def plain(loader):
        return loader

    assert run(deal) == run(plain)


def test_an_explicit_list_without_shuffling_goes_in_the_users_order():
    loader = deal(DataLoader(numbers(5), batch_size=2), partition=[[4, 2, 0, 1, 3]])
    assert places(epoch(loader)) == [{0: (4, 2)}, {0: (0, 1)}, {0: (3,)}]


def test_batches_are_the_samples_at_the_indices():
    loader = deal(DataLoader(numbers(20), batch_size=3, shuffle=True), num_clients=3)
    for step in epoch(loader) + epoch(loader):
        for client in step:
            assert tuple(step[client][0].tolist()) == step.indices[client]
        assert step.sizes() == {client: len(batch[0]) for client, batch in step.batches.items()}
        assert len(step) == 3


# Several clients


@given(
    data=st.data(),
    num_clients=st.integers(1, 5),
    batch_size=st.integers(1, 6),
    shuffle=st.booleans(),
    partition=st.sampled_from(["iid", "shards:2"]),
)
def test_each_clients_pass_visits_each_of_its_samples_once_across_epochs(
    data, num_clients, batch_size, shuffle, partition
):
    size = data.draw(st.integers(2 * num_clients, 40))
    dataset = TensorDataset(torch.arange(size), torch.arange(size) % 3)
    loader = deal(
        DataLoader(dataset, batch_size=batch_size, shuffle=shuffle),
        partition=partition,
        num_clients=num_clients,
        clients_per_round=data.draw(st.integers(1, num_clients)),
        steps_per_round=data.draw(st.integers(1, 4)),
    )
    assert sorted(np.concatenate(loader.parts).tolist()) == list(range(size))
    steps = [step for _ in range(4) for step in epoch(loader)]
    for client, part in enumerate(loader.parts):
        seen = visits(steps, client)
        passes = [seen[start : start + len(part)] for start in range(0, len(seen), len(part))]
        assert all(sorted(each) == part.tolist() for each in passes if len(each) == len(part))
        assert all(len(set(each)) == len(each) and set(each) <= set(part.tolist()) for each in passes)
        assert all(len(step.indices[client]) <= batch_size for step in steps if client in step.indices)


def test_passes_carry_over_epochs():
    """3 and 7 samples in batches of 2: an epoch has ⌈10/4⌉ = 3 steps, and ends within the larger client's pass."""
    loader = deal(DataLoader(numbers(10), batch_size=2), partition=[[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]], num_clients=2)
    assert len(loader) == 3
    assert places(epoch(loader)) == [{0: (0, 1), 1: (3, 4)}, {0: (2,), 1: (5, 6)}, {0: (0, 1), 1: (7, 8)}]
    assert places(epoch(loader)) == [{0: (2,), 1: (9,)}, {0: (0, 1), 1: (3, 4)}, {0: (2,), 1: (5, 6)}]


def test_a_client_with_fewer_samples_than_a_batch_gives_all_it_has():
    loader = deal(
        DataLoader(numbers(10), batch_size=4, shuffle=True),
        partition=[[3], [0, 1, 2, 4, 5, 6, 7, 8, 9]],
        num_clients=2,
    )
    steps = epoch(loader)
    assert [step.indices[0] for step in steps] == [(3,)] * 2
    assert [len(step.indices[1]) for step in steps] == [4, 4]


def test_short_batches_are_dropped_where_the_users_loader_drops_them():
    loader = deal(DataLoader(numbers(10), batch_size=2, drop_last=True, shuffle=True), num_clients=2)
    steps = [step for _ in range(4) for step in epoch(loader)]
    assert len(loader) == 2
    assert all(set(step.sizes().values()) == {2} for step in steps)


def test_steps_carry_their_round_and_only_the_rounds_participants():
    """Rounds of 4 steps, epochs of ⌈12/(½ · 8)⌉ = 3 steps: the step counts on over the epochs."""
    loader = deal(
        DataLoader(numbers(12), batch_size=2, shuffle=True), num_clients=4, clients_per_round=2, steps_per_round=4
    )
    steps = [step for _ in range(3) for step in epoch(loader)]
    assert [step.step for step in steps] == list(range(9))
    assert [step.round for step in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert [step.closes_round for step in steps] == [False, False, False, True, False, False, False, True, False]
    for step in steps:
        assert tuple(step) == tuple(step.indices) == loader.schedule.participants(step.round)


@pytest.mark.parametrize(
    ("sizes", "clients_per_round", "batch_size", "drop_last", "expected"),
    [
        ((8, 4), 2, 4, False, 2),  # ⌈12/(4 + 4)⌉
        ((8, 4), 2, 4, True, 1),  # ⌊12/(4 + 4)⌋
        ((8, 4), 1, 4, False, 3),  # ⌈12/(½ · 8)⌉
        ((9, 1), 2, 4, False, 2),  # ⌈10/(4 + 1)⌉
        ((2, 2, 2), 2, 8, False, 2),  # ⌈6/(⅔ · 6)⌉ = ⌈1.5⌉
    ],
)
def test_an_epoch_has_the_length_of_the_formula_and_yields_it(
    sizes, clients_per_round, batch_size, drop_last, expected
):
    """⌈Σn / (K/N · Σb)⌉ with b the clients' batch sizes, min(b, n)."""
    partition = [part.tolist() for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])]
    loader = deal(
        DataLoader(numbers(sum(sizes)), batch_size=batch_size, drop_last=drop_last),
        partition=partition,
        num_clients=len(sizes),
        clients_per_round=clients_per_round,
    )
    assert len(loader) == expected
    assert len(list(loader)) == len(list(loader)) == expected


def test_a_batch_size_takes_the_place_of_the_loaders():
    loader = deal(DataLoader(numbers(12), batch_size=2), num_clients=2, batch_size=3)
    assert loader.batch_sizes == [3, 3]
    assert len(loader) == 2
    assert [set(step.sizes().values()) for step in epoch(loader)] == [{3}, {3}]


def test_the_global_seed_orders_the_clients_samples_and_the_strategys_the_partition():
    def run(global_seed, seed):
        torch.manual_seed(global_seed)
        loader = deal(DataLoader(numbers(40), batch_size=10, shuffle=True), num_clients=2, seed=seed)
        return [part.tolist() for part in loader.parts], places(epoch(loader))

    parts, order = run(0, 0)
    assert run(0, 0) == (parts, order)
    assert run(1, 0)[0] == parts
    assert run(1, 0)[1] != order
    assert run(0, 1)[0] != parts


# What belongs to the user's loader


def test_workers_yield_what_the_main_process_yields():
    def run(workers):
        torch.manual_seed(0)
        loader = deal(
            DataLoader(numbers(23), batch_size=3, shuffle=True, num_workers=workers), num_clients=3, steps_per_round=2
        )
        steps = [step for _ in range(2) for step in epoch(loader)]
        assert all(tuple(step[client][0].tolist()) == step.indices[client] for step in steps for client in step)
        return places(steps), torch.get_rng_state().tolist()

    assert run(2) == run(0)


def test_the_users_collate_function_makes_the_batches():
    made = []

    def collate(samples):
        made.append(len(samples))
        return {"sum": sum(sample[0].item() for sample in samples)}

    loader = deal(DataLoader(numbers(10), batch_size=3, collate_fn=collate, shuffle=True), num_clients=2)
    steps = epoch(loader)
    assert made == [3, 3, 2, 2]
    for step in steps:
        assert step.batches == {client: {"sum": sum(indices)} for client, indices in step.indices.items()}


def test_the_data_set_and_the_worker_initialisation_are_the_users():
    def first(worker):
        del worker

    def second(worker):
        del worker

    dataset = numbers(4)
    loader = deal(DataLoader(dataset, batch_size=2, worker_init_fn=first))
    assert loader.dataset is dataset
    assert loader.worker_init_fn is first
    loader.worker_init_fn = second
    assert loader.worker_init_fn is second


class Seen(Dataset):
    """Says what the worker's initialisation left behind."""

    mark = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Seen.mark


def leave_a_mark(worker):
    Seen.mark = 7 + worker


def test_a_worker_initialisation_that_is_set_later_runs_in_the_workers():
    loader = deal(DataLoader(Seen(), batch_size=2, num_workers=1))
    loader.worker_init_fn = leave_a_mark
    assert [step[0].tolist() for step in epoch(loader)] == [[7, 7], [7, 7]]
    assert Seen.mark == 0


def test_workers_that_persist_end_with_the_loader():
    """At once, as a plain loader's, and not when a cycle of references is collected some day."""
    others = set(multiprocessing.active_children())
    loader = deal(DataLoader(numbers(8), batch_size=2, num_workers=1, persistent_workers=True), num_clients=2)
    epoch(loader)
    assert set(multiprocessing.active_children()) - others
    gc.disable()
    try:
        del loader
        assert not set(multiprocessing.active_children()) - others
    finally:
        gc.enable()


# Leaving and coming back


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_abandoned_epoch_loses_nothing(workers, shuffle):
    """What workers had fetched ahead was not delivered, and is planned again: passes and steps stay whole."""
    loader = deal(
        DataLoader(numbers(23), batch_size=2, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0),
        num_clients=3,
        clients_per_round=2,
        steps_per_round=2,
    )
    steps = []
    for taken in (2, 1, 0, 3):
        steps += list(itertools.islice(iter(loader), taken))
    steps += epoch(loader) + epoch(loader)
    assert [step.step for step in steps] == list(range(6 + 2 * len(loader)))
    for client, part in enumerate(loader.parts):
        seen = visits(steps, client)
        assert len(seen) > len(part)
        assert sorted(seen[: len(part)]) == part.tolist()
        rest = seen[len(part) : 2 * len(part)]
        assert len(set(rest)) == len(rest)
    for step in steps:
        assert all(tuple(step[client][0].tolist()) == step.indices[client] for client in step)


def test_a_loader_that_takes_anothers_place_goes_on_with_its_steps_and_begins_its_passes_anew():
    """As after `reload_dataloaders_every_n_epochs`, whose new data set may be another."""
    earlier = deal(DataLoader(numbers(20), batch_size=2), num_clients=2, steps_per_round=3)
    epoch(earlier)
    deque(itertools.islice(iter(earlier), 2), maxlen=0)
    later = deal(DataLoader(numbers(8), batch_size=2), num_clients=2, steps_per_round=3)
    later.go_on_after(earlier)
    steps = epoch(later)
    assert [(step.step, step.round, step.closes_round) for step in steps] == [(7, 2, False), (8, 2, True)]
    for client, part in enumerate(later.parts):
        assert sorted(visits(steps, client)) == part.tolist()


def saved_and_loaded(state):
    """A state written down and read again; only tensors and plain Python values come through."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6])
def test_a_state_taken_mid_epoch_goes_on_exactly(taken, workers):
    """Without shuffling; epochs have ⌈23/(⅔ · 6)⌉ = 6 steps."""

    def make():
        return deal(
            DataLoader(numbers(23), batch_size=2, num_workers=workers),
            num_clients=3,
            clients_per_round=2,
            steps_per_round=4,
        )

    original = make()
    assert len(original) == 6
    epoch(original)
    running = iter(original)
    deque(itertools.islice(running, taken), maxlen=0)
    state = saved_and_loaded(original.state_dict())
    expected = list(itertools.islice(running, 6 - taken))
    resumed = make()
    resumed.load_state_dict(state)
    found = list(itertools.islice(iter(resumed), 6 - taken))
    for _ in range(2):
        expected += epoch(original)
        found += epoch(resumed)
    assert places(found) == places(expected)
    assert [(step.step, step.round) for step in found] == [(step.step, step.round) for step in expected]


def test_a_state_taken_mid_epoch_finishes_the_passes_under_way_with_shuffling_too():
    def make():
        return deal(DataLoader(numbers(20), batch_size=2, shuffle=True), num_clients=2)

    original = make()
    running = iter(original)
    deque(itertools.islice(running, 2), maxlen=0)
    state = saved_and_loaded(original.state_dict())
    expected = places(running)
    torch.manual_seed(99)
    resumed = make()
    resumed.load_state_dict(state)
    assert places(itertools.islice(iter(resumed), 3)) == expected


def test_taking_a_state_changes_nothing_and_it_does_not_change_later():
    def make():
        return deal(DataLoader(numbers(20), batch_size=2), num_clients=2)

    one, other = make(), make()
    running = iter(one)
    next(running)
    state = one.state_dict()
    kept = saved_and_loaded(state)
    steps = list(running)
    assert places(steps) == places(epoch(other)[1:])
    assert str(state) == str(kept)
    assert str(one.state_dict()) != str(kept)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4, 6, 7])
def test_what_samples_draw_at_random_is_the_same_after_a_resume(taken, workers):
    """In the main process from the random state put back, in workers from (seed, client, pass, index). Shuffled, with
    the loader's own generator; 20 samples of 2 clients, 3 each per step, are 4 steps: 7 are in the second epoch."""

    def make():
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(8)
        loader = DataLoader(Noisy(20), batch_size=3, shuffle=True, num_workers=workers, generator=generator)
        return deal(loader, num_clients=2)

    def seen(steps):
        return [{client: [part.tolist() for part in step[client]] for client in step} for step in steps]

    def run(loader, steps):
        while steps > 0:
            found = list(itertools.islice(iter(loader), min(steps, len(loader))))
            steps -= len(found)
            yield from found

    original = make()
    expected = seen(run(original, 12))
    interrupted = make()
    running = (step for _ in range(3) for step in interrupted)
    begun = seen(itertools.islice(running, taken))
    state, random = saved_and_loaded(interrupted.state_dict()), RandomState.capture()
    resumed = make()
    resumed.load_state_dict(state)
    going_on = iter(resumed)
    random.restore()
    left = len(resumed) - taken % len(resumed)
    found = seen(itertools.islice(going_on, left))
    found += seen(run(resumed, 12 - taken - left))
    assert begun + found == expected


def test_a_sample_drawn_in_a_worker_differs_from_pass_to_pass():
    loader = deal(DataLoader(Noisy(4), batch_size=4, num_workers=1))
    (first,), (second,) = epoch(loader), epoch(loader)
    assert first[0][0].tolist() == second[0][0].tolist() == [0, 1, 2, 3]
    assert set(first[0][1].tolist()).isdisjoint(second[0][1].tolist())
    assert len(set(first[0][1].tolist())) == 4


def test_a_state_of_another_partition_is_refused():
    state = deal(DataLoader(numbers(20), batch_size=2), num_clients=2).state_dict()
    other = deal(DataLoader(numbers(20), batch_size=2), num_clients=2, seed=1)
    with pytest.raises(ValueError, match="another partition"):
        other.load_state_dict(state)


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
