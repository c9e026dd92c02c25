import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.gradients.starts import most_iterations, rungs, successive_halving


class Counted:
    """A search whose fit after k steps is given by a rule, and that may end early."""

    def __init__(self, fit_after, ends_at=10**9):
        self.fit_after, self.ends_at, self.taken, self.fit = fit_after, ends_at, 0, math.inf

    def run(self, iterations):
        steps = min(iterations, self.ends_at - self.taken)
        self.taken += steps
        self.fit = self.fit_after(self.taken)
        return steps


def test_rungs_by_hand():
    """5 starts halve to 3, 2 and 1; the last rung ends at 100 steps, those before at 50, 25 and ⌈12.5⌉.
    Steps: 5·13 + 3·12 + 2·25 + 1·50 = 201."""
    assert rungs(100, 5) == [(5, 13), (3, 25), (2, 50), (1, 100)]
    assert most_iterations(100, 5) == 201
    assert rungs(100, 1) == [(1, 100)]


@given(iterations=st.integers(1, 500), starts=st.integers(1, 9))
def test_the_steps_taken_are_those_planned_and_one_start_takes_all(iterations, starts):
    descents = [Counted(lambda taken, place=place: place + 1 / taken) for place in range(starts)]

    best, spent = successive_halving(descents, iterations)

    assert best is descents[0]
    assert best.taken == iterations
    assert spent == sum(descent.taken for descent in descents) == most_iterations(iterations, starts)


def test_a_start_that_did_worse_is_not_run_on():
    good, bad = Counted(lambda taken: 0.1), Counted(lambda taken: 0.9)

    best, _ = successive_halving([bad, good], 100)

    assert best is good
    assert (bad.taken, good.taken) == (50, 100)


def test_a_good_enough_fit_ends_everything():
    first, second = Counted(lambda taken: 1e-9), Counted(lambda taken: 0.5)
    told = []

    best, spent = successive_halving([first, second], 100, 1e-6, told.append)

    assert best is first
    assert spent == 50
    assert second.taken == 0
    assert told[-1] == 1


def test_a_fit_that_is_no_number_is_worst():
    broken, whole = Counted(lambda taken: math.nan), Counted(lambda taken: 0.99)

    assert successive_halving([broken, whole], 10)[0] is whole


def test_progress_rises_to_one():
    told = []

    successive_halving([Counted(lambda taken: 1.0, ends_at=3) for _ in range(4)], 100, 0.0, told.append)

    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
