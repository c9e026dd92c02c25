"""Leaving a client loader and coming back to it."""

import io
import itertools
from collections import deque

import pytest
import torch
from loader_cases import Noisy, deal, epoch, numbers, places, visits
from torch.utils.data import (
    DataLoader,
)

from lightning_sfl.random_state import RandomState

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
