import dataclasses
import math
from collections import Counter
from fractions import Fraction
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.schedule import ParallelSchedule, RelaySchedule, SequentialSchedule, Turn

SCHEDULES = (ParallelSchedule, SequentialSchedule, RelaySchedule)
ONE_BY_ONE = (SequentialSchedule, RelaySchedule)


def make(num_clients=10, clients_per_round=3, steps_per_round=1, seed=0, kind=ParallelSchedule):
    return kind(
        num_clients=num_clients, clients_per_round=clients_per_round, steps_per_round=steps_per_round, seed=seed
    )


@st.composite
def schedules(draw, kinds):
    """A schedule of one of these kinds."""
    num_clients = draw(st.integers(1, 12))
    return make(
        num_clients,
        draw(st.integers(1, num_clients)),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 2**32)),
        draw(st.sampled_from(kinds)),
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


# Turns


@given(schedule=schedules(SCHEDULES), steps=st.lists(st.integers(0, 10**6), max_size=5))
def test_a_turn_depends_on_the_step_alone(schedule, steps):
    """Whatever was asked before, of whichever object: a run can go on anywhere."""
    again = dataclasses.replace(schedule)
    forward = [schedule.turn(step) for step in steps]
    assert [again.turn(step) for step in reversed(steps)] == forward[::-1]
    assert [schedule.turn(step) for step in steps] == forward


@given(schedule=schedules(SCHEDULES), start=st.integers(0, 10**6))
def test_rounds_count_up_by_one_behind_each_step_that_closes_one(schedule, start):
    turns = [schedule.turn(step) for step in range(start, start + 40)]
    assert schedule.turn(0).round == 0
    for turn, following in pairwise(turns):
        assert following.round == turn.round + turn.closes_round
        if not turn.closes_round:
            assert following.participants == turn.participants


@given(schedule=schedules(SCHEDULES), round=st.integers(0, 1000))
def test_every_participant_of_a_round_has_as_many_steps_as_it_is_told(schedule, round):
    """And nobody else has any. A parallel round has I steps, one by one it has K · I; a relay's one holder has I."""
    length = schedule.steps_per_round
    if type(schedule) is SequentialSchedule:
        length *= schedule.clients_per_round
    turns = [schedule.turn(step) for step in range(round * length, (round + 1) * length)]
    assert {turn.round for turn in turns} == {round}
    assert [turn.closes_round for turn in turns] == [False] * (length - 1) + [True]
    count = 1 if type(schedule) is RelaySchedule else schedule.clients_per_round
    (participants,) = {turn.participants for turn in turns}
    assert len(participants) == count
    assert list(participants) == sorted(set(participants))
    assert set(participants) <= set(range(schedule.num_clients))
    seen = Counter(client for turn in turns for client in turn.clients)
    assert seen == dict.fromkeys(participants, schedule.steps_per_round)
    assert all(type(client) is int for client in seen)


@given(schedule=schedules(ONE_BY_ONE), start=st.integers(0, 1000))
def test_one_by_one_a_step_is_one_clients_and_its_steps_follow_each_other(schedule, start):
    every = schedule.steps_per_round
    first = start * every
    turns = [schedule.turn(step) for step in range(first, first + 6 * every)]
    assert all(len(turn.clients) == 1 for turn in turns)
    for place in range(0, len(turns), every):
        assert len({turn.clients for turn in turns[place : place + every]}) == 1


@given(schedule=schedules(ONE_BY_ONE), cycle=st.integers(0, 1000))
def test_the_drawn_clients_have_one_turn_each_before_anybody_is_drawn_again(schedule, cycle):
    """K turns of I steps: a round of SplitFed-V2, K rounds of a relay. They are drawn as a parallel round's are."""
    count, every = schedule.clients_per_round, schedule.steps_per_round
    turns = [schedule.turn(step) for step in range(cycle * count * every, (cycle + 1) * count * every, every)]
    holders = [turn.clients[0] for turn in turns]
    assert sorted(holders) == list(schedule.participants(cycle))
    assert tuple(holders) == schedule.order(cycle)


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_the_order_is_drawn_anew_and_evenly(kind):
    """3 of 3 clients: each of the 6 orders in 1200 cycles 200 times, σ = √(1200 · 5/36) = 12.9; five of them are 65."""
    schedule = make(3, 3, 2, kind=kind)
    orders = Counter(
        tuple(schedule.turn(6 * cycle + 2 * place).clients[0] for place in range(3)) for cycle in range(1200)
    )
    assert set(orders) == set(permutations(range(3)))
    assert all(abs(count - 200) < 65 for count in orders.values())
    assert [make(3, 3, seed=1, kind=kind).order(cycle) for cycle in range(20)] != [
        schedule.order(cycle) for cycle in range(20)
    ]


def test_turns_by_hand():
    """2 of 4 clients, two steps each. Who they are is drawn; how turns and rounds lie is not."""
    (a, b), (c, d) = (make(4, 2, 2).order(cycle) for cycle in range(2))
    first, second = tuple(sorted((a, b))), tuple(sorted((c, d)))

    def turns(kind):
        found = [make(4, 2, 2, kind=kind).turn(step) for step in range(6)]
        return [(turn.round, turn.participants, turn.clients, turn.closes_round) for turn in found]

    assert turns(ParallelSchedule) == [
        (0, first, first, False),
        (0, first, first, True),
        (1, second, second, False),
        (1, second, second, True),
        (2, *[make(4, 2).participants(2)] * 2, False),
        (2, *[make(4, 2).participants(2)] * 2, True),
    ]
    assert turns(SequentialSchedule) == [
        (0, first, (a,), False),
        (0, first, (a,), False),
        (0, first, (b,), False),
        (0, first, (b,), True),
        (1, second, (c,), False),
        (1, second, (c,), False),
    ]
    assert turns(RelaySchedule) == [
        (0, (a,), (a,), False),
        (0, (a,), (a,), True),
        (1, (b,), (b,), False),
        (1, (b,), (b,), True),
        (2, (c,), (c,), False),
        (2, (c,), (c,), True),
    ]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_client_has_all_turns(kind):
    """In every schedule alike: a round is its I steps."""
    schedule = make(1, 1, 3, kind=kind)
    assert [schedule.turn(step) for step in range(4)] == [
        Turn(round=step // 3, participants=(0,), clients=(0,), closes_round=step == 2) for step in range(4)
    ]


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
    assert schedule.steps_per_epoch(sizes, [batch_size] * len(sizes), drop_last=drop_last) == expected


@given(data=st.data(), sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=20), batch_size=st.integers(1, 64))
def test_steps_per_epoch_is_samples_over_the_mean_samples_of_a_step(data, sizes, batch_size):
    """⌈Σn / (K/N · Σ min(b, n))⌉, in exact arithmetic."""
    count = data.draw(st.integers(1, len(sizes)))
    per_step = Fraction(count, len(sizes)) * sum(min(batch_size, size) for size in sizes)
    schedule = make(len(sizes), count)
    assert schedule.steps_per_epoch(sizes, [batch_size] * len(sizes), drop_last=False) == math.ceil(
        sum(sizes) / per_step
    )
    assert schedule.steps_per_epoch(sizes, [batch_size] * len(sizes), drop_last=True) == max(
        1, math.floor(sum(sizes) / per_step)
    )


@pytest.mark.parametrize(
    ("sizes", "batch_size", "drop_last", "expected"),
    [
        ([10], 4, False, 3),  # the plain loader's ⌈10/4⌉
        ([10], 4, True, 2),  # the plain loader's ⌊10/4⌋
        ([10, 8, 3], 4, False, 3 + 2 + 1),
        ([10, 8, 3], 4, True, 2 + 2 + 1),  # who has less than a batch has one of all it holds
        ([4, 4], 4, True, 2),
    ],
)
@pytest.mark.parametrize("clients_per_round", [None, 1])
@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_one_by_one_an_epoch_has_the_batches_of_all_clients(
    kind, clients_per_round, sizes, batch_size, drop_last, expected
):
    """Also if few take part in a round: their Σ⌈n/b⌉ times N/K, where K of N are drawn, is on average that of all."""
    schedule = make(len(sizes), clients_per_round or len(sizes), kind=kind)
    assert schedule.steps_per_epoch(sizes, [batch_size] * len(sizes), drop_last=drop_last) == expected


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), batch_size=st.integers(1, 64), data=st.data())
def test_one_by_one_steps_per_epoch_is_the_scaled_mean_over_all_draws_of_clients(sizes, batch_size, data):
    """N/K · mean over the subsets of K clients of Σ⌈nᵢ/bᵢ⌉ with bᵢ = min(b, nᵢ), in exact arithmetic."""
    count = data.draw(st.integers(1, len(sizes)))
    subsets = list(combinations(sizes, count))
    batches = sum(math.ceil(Fraction(size, min(batch_size, size))) for subset in subsets for size in subset)
    expected = Fraction(len(sizes), count) * batches / len(subsets)
    for kind in ONE_BY_ONE:
        assert (
            make(len(sizes), count, kind=kind).steps_per_epoch(sizes, [batch_size] * len(sizes), drop_last=False)
            == expected
        )


@pytest.mark.parametrize(
    ("kind", "count", "drop_last", "expected"),
    [
        (ParallelSchedule, 3, False, 3),  # 16/(4 + 1 + 2) = 2.3
        (ParallelSchedule, 3, True, 2),
        (ParallelSchedule, 2, False, 4),  # 16/(⅔ · 7) = 3.4
        (SequentialSchedule, 3, False, 3 + 4 + 1),
        (SequentialSchedule, 2, True, 2 + 4 + 1),
        (RelaySchedule, 3, False, 3 + 4 + 1),
    ],
)
def test_every_client_counts_with_its_own_batch_size(kind, count, drop_last, expected):
    """Clients of 10, 4 and 2 samples in batches of 4, 1 and 5, of which the last holds the client's 2."""
    assert make(3, count, kind=kind).steps_per_epoch([10, 4, 2], [4, 1, 5], drop_last=drop_last) == expected
