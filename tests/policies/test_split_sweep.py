"""The sweep over splits against all choices and against a mixed-integer program."""

import dataclasses

import numpy as np
import pytest
from references_splits import best_by_program, best_of_all

from lightning_sfl.policies.solvers.split_options import Options
from lightning_sfl.policies.solvers.split_sweep import split_sweep
from lightning_sfl.random import generator


def drawn(draw, clients, cuts, stages):
    cost = 10 ** draw.uniform(-1, 1, (clients, cuts))
    cost[:, 1:][draw.uniform(size=(clients, cuts - 1)) < 0.2] = np.inf
    return Options(
        cost=cost,
        time_s=10 ** draw.uniform(-1, 1, (stages, clients, cuts)),
        weight=10 ** draw.uniform(-1, 1, stages),
        depth=np.arange(cuts),
        base=np.cumsum(draw.uniform(0, 2, cuts)),
        floor_s=draw.choice([0.0, 1.0], stages),
    )


def test_with_two_stages_the_best_of_all_choices_is_found():
    """200 drawn cases of up to 4 clients and 4 cuts: 256 choices at most."""
    for case in range(200):
        draw = generator(case, "split sweep")
        options = drawn(draw, int(draw.integers(1, 5)), int(draw.integers(1, 5)), int(draw.integers(1, 3)))
        assert options.value(split_sweep(options)) == pytest.approx(best_of_all(options)[0], rel=1e-12)


def test_with_what_a_round_begins_and_ends_with_it_stays_within_a_hundredth_of_the_range():
    """Broadcast and upload grow with depth, as weights add up; steps take what they take."""
    gaps = []
    for case in range(200):
        draw = generator(case, "split sweep of four")
        options = drawn(draw, int(draw.integers(1, 4)), int(draw.integers(1, 5)), 4)
        time_s = options.time_s.copy()
        time_s[2:] = np.sort(time_s[2:], axis=2)
        options = dataclasses.replace(options, time_s=time_s)
        least, most = best_of_all(options)
        gaps.append((options.value(split_sweep(options)) - least) / max(most - least, 1e-12 * most))
    assert max(gaps) <= 0.01, sorted(gaps)[-5:]


def test_stages_that_have_nothing_to_do_with_each_other_are_searched_to_the_best():
    """Four stages, drawn apart, of 3 or 4 clients with 3 to 5 options: 625 choices at most."""
    for case in range(40):
        draw = generator(case, "unrelated stages")
        options = drawn(draw, int(draw.integers(3, 5)), int(draw.integers(3, 6)), 4)
        assert options.value(split_sweep(options)) == pytest.approx(best_of_all(options)[0], rel=1e-12)


@pytest.mark.slow
def test_stages_that_have_nothing_to_do_with_each_other_against_a_mixed_integer_program():
    """The same of 6 to 8 clients."""
    for case in range(40):
        draw = generator(case, "unrelated stages")
        options = drawn(draw, int(draw.integers(6, 9)), int(draw.integers(3, 6)), 4)
        assert options.value(split_sweep(options)) <= best_by_program(options) * (1 + 1e-6)


def test_it_agrees_with_a_mixed_integer_program_of_a_size_that_cannot_be_enumerated():
    for case in range(2):
        options = drawn(generator(case, "split program"), 6, 4, 2)
        assert options.value(split_sweep(options)) == pytest.approx(best_by_program(options), rel=1e-6)


def test_the_program_is_the_same_problem():
    for case in range(3):
        options = drawn(generator(case, "split sweep"), 3, 3, 3)
        assert best_by_program(options) == pytest.approx(best_of_all(options)[0], rel=1e-6)


def test_it_is_never_worse_than_its_start_nor_takes_what_there_is_not():
    for case in range(20):
        draw = generator(case, "split start")
        options = drawn(draw, 6, 5, 4)
        start = np.array([draw.choice(np.flatnonzero(np.isfinite(row))) for row in options.cost])
        for most in (None, 16):
            chosen = split_sweep(options, start, most_thresholds=most)
            assert options.value(chosen) <= options.value(start)
            assert np.isfinite(options.cost[np.arange(6), chosen]).all()


def test_a_client_that_can_only_hold_one_cut_gets_it():
    options = drawn(generator(3, "split sweep"), 3, 4, 2)
    cost = options.cost.copy()
    cost[1] = [np.inf, np.inf, 5.0, np.inf]
    assert split_sweep(dataclasses.replace(options, cost=cost))[1] == 2


def test_few_thresholds_come_near_what_all_of_them_find():
    """Sixteen thresholds over two decades are a factor of 1.36 apart; stages cost at most so much more."""
    for case in range(20):
        options = drawn(generator(case, "few thresholds"), 12, 8, 2)
        least = options.value(split_sweep(options))
        assert options.value(split_sweep(options, most_thresholds=16)) <= 1.36 * least


def test_a_stage_in_which_nobody_does_anything_is_no_reason_to_fail():
    """Many options, so that thresholds are spread: nobody re-splits, for example."""
    options = drawn(generator(0, "idle stage"), 3, 100, 3)
    time_s = options.time_s.copy()
    time_s[1] = 0.0
    idle = dataclasses.replace(options, time_s=time_s, floor_s=np.zeros(3))
    chosen = split_sweep(idle, most_thresholds=16)
    assert np.isfinite(idle.value(chosen))
