"""The training loader of the clients: who gets which batches, and what it leaves to the user's loader."""

import gc
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loader_cases import Noisy, deal, epoch, numbers, places, visits
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
)

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
