import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.schedule import ParallelSchedule


def make(num_clients=10, clients_per_round=3, steps_per_round=1, seed=0):
    return ParallelSchedule(
        num_clients=num_clients, clients_per_round=clients_per_round, steps_per_round=steps_per_round, seed=seed
    )


# Participants


@given(data=st.data(), num_clients=st.integers(1, 50), round=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_participants_are_different_clients_in_ascending_order(data, num_clients, round, seed):
    count = data.draw(st.integers(1, num_clients))
    found = make(num_clients, count, seed=seed).participants(round)
    assert len(found) == count
    assert list(found) == sorted(set(found))
    assert set(found) <= set(range(num_clients))
    assert all(type(client) is int for client in found)


def test_participants_depend_on_seed_and_round_only():
    rounds = range(30)
    forward = {round: make().participants(round) for round in rounds}
    schedule = make(steps_per_round=7)
    backward = {round: schedule.participants(round) for round in reversed(rounds)}
    assert backward == forward
    assert {round: make(seed=1).participants(round) for round in rounds} != forward
    assert len(set(forward.values())) > 10


def test_with_all_clients_per_round_everybody_takes_part():
    assert [make(5, 5).participants(round) for round in range(3)] == [(0, 1, 2, 3, 4)] * 3


def test_every_client_is_drawn_equally_often():
    """3 of 10 in 2000 rounds: 600 each, standard deviation √(2000 · 0.3 · 0.7) = 20.5; five of them are 103."""
    schedule = make()
    drawn = [client for round in range(2000) for client in schedule.participants(round)]
    assert all(abs(drawn.count(client) - 600) < 103 for client in range(10))


# Rounds


def test_a_round_has_as_many_steps_as_it_is_told():
    schedule = make(steps_per_round=3)
    assert [schedule.round_of(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [schedule.closes_round(step) for step in range(7)] == [False, False, True, False, False, True, False]


@given(steps_per_round=st.integers(1, 20), step=st.integers(0, 10**6))
def test_a_step_closes_its_round_where_the_next_begins_another(steps_per_round, step):
    schedule = make(steps_per_round=steps_per_round)
    assert schedule.closes_round(step) == (schedule.round_of(step + 1) != schedule.round_of(step))


# Length of an epoch


@pytest.mark.parametrize(
    ("sizes", "clients_per_round", "batch_size", "drop_last", "expected"),
    [
        ([10], 1, 4, False, 3),  # the plain loader's ⌈10/4⌉
        ([10], 1, 4, True, 2),  # the plain loader's ⌊10/4⌋
        ([8], 1, 4, False, 2),
        ([10, 10], 2, 4, False, 3),  # 20/(4+4) = 2.5
        ([10, 10], 2, 4, True, 2),
        ([10, 10], 1, 4, False, 5),  # 20/(½ · 8)
        ([2, 10], 2, 4, False, 2),  # the first client's batches hold its 2: 12/(2+4)
        ([3, 3, 3], 2, 8, False, 2),  # 9/(⅔ · 9) = 1.5
        ([3, 3, 3], 3, 8, False, 1),
        ([3], 1, 8, True, 1),  # never none
    ],
)
def test_an_epoch_sees_about_as_many_samples_as_there_are(sizes, clients_per_round, batch_size, drop_last, expected):
    schedule = make(len(sizes), clients_per_round)
    assert schedule.steps_per_epoch(sizes, batch_size, drop_last=drop_last) == expected


@given(data=st.data(), sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=20), batch_size=st.integers(1, 64))
def test_steps_per_epoch_is_samples_over_the_mean_samples_of_a_step(data, sizes, batch_size):
    """⌈Σn / (K/N · Σ min(b, n))⌉, in exact arithmetic."""
    count = data.draw(st.integers(1, len(sizes)))
    per_step = Fraction(count, len(sizes)) * sum(min(batch_size, size) for size in sizes)
    schedule = make(len(sizes), count)
    assert schedule.steps_per_epoch(sizes, batch_size, drop_last=False) == math.ceil(sum(sizes) / per_step)
    assert schedule.steps_per_epoch(sizes, batch_size, drop_last=True) == max(1, math.floor(sum(sizes) / per_step))
