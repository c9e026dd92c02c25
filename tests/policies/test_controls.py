"""Clock, power and bandwidth together, against SciPy on the problem as it is written."""

import dataclasses

import numpy as np
import pytest
from references_controls import best_cost

from lightning_sfl.policies.solvers.controls import Limits, Setting, Work, solve_controls, value_of
from lightning_sfl.random import generator


def drawn(draw, clients, *, shared, span=1.0):
    """Broadcast and re-split, up, back, upload; everything spread over ``span`` powers of ten each way."""

    def spread(low, high, count=clients):
        return 10 ** draw.uniform(low * span, high * span, count)

    nothing = np.zeros(clients)
    bit = np.stack(
        [draw.choice([0, 1], clients) * 1e5 * spread(-1, 1), 1e6 * spread(-1, 1), nothing, 1e5 * spread(-1, 2)]
    )
    band = 1e6 * spread(0, 0.5)
    most = draw.uniform(0.1, 2.0, clients)
    work = Work(
        clock_s=np.stack([nothing, spread(-1, 1), spread(-1, 1), nothing])[:, None],
        bit=bit[:, None],
        given_s=np.stack([spread(-2, 0), nothing, spread(-2, 0), nothing])[:, None],
        weight=spread(-2, 1, 1) * np.array([1.0, 15.0, 15.0, 1.0]),
        floor_s=np.zeros((4, 1)),
        clock_price=spread(-2, 1)[None],
        bit_price=(spread(-2, 2) * bit.sum(axis=0))[None],
    )
    limits = Limits(
        lowest_share=draw.uniform(0.05, 1.0, clients),
        most_watt=most,
        gain_to_noise_hz_per_watt=spread(-2, 2) * band / most,
        band_hz=band,
        total_hz=float(band.sum()) if shared else None,
    )
    return work, limits


def inside(limits, setting):
    assert (setting.share >= limits.lowest_share * (1 - 1e-12)).all()
    assert (setting.share <= 1).all()
    watt = limits.watt(setting.second_per_bit, setting.band_hz)
    assert (watt > 0).all()
    assert (watt <= limits.most_watt).all()
    assert (setting.second_per_bit >= limits.least_second_per_bit(setting.band_hz) * (1 - 1e-12)).all()
    if limits.total_hz is not None:
        assert setting.band_hz.sum(axis=1) == pytest.approx(limits.total_hz, rel=1e-9)
    else:
        assert (setting.band_hz == limits.band_hz).all()


@pytest.mark.parametrize("shared", [False, True])
def test_it_is_within_a_thousandth_of_what_quadratic_programming_finds(shared):
    compared = 0
    for case in range(12):
        draw = generator(case, "controls")
        work, limits = drawn(draw, int(draw.integers(1, 5)), shared=shared)
        found = solve_controls(work, limits)
        inside(limits, found)
        least = best_cost(work, limits, found)
        compared += np.isfinite(least)
        assert value_of(work, limits, found)[0] <= 1.001 * least
    assert compared >= 8


def test_hard_cases_end_within_the_limits():
    """Everything spread over up to six powers of ten each way: channels near zero, huge and tiny speeds and prices."""
    for case in range(40):
        draw = generator(case, "hard controls")
        work, limits = drawn(draw, int(draw.integers(1, 6)), shared=bool(draw.integers(2)), span=draw.choice([2, 4, 6]))
        found = solve_controls(work, limits)
        inside(limits, found)
        assert np.isfinite(value_of(work, limits, found)).all()


def test_many_problems_at_once_are_each_solved_as_alone():
    draw = generator(0, "many controls")
    work, limits = drawn(draw, 3, shared=True)
    others = dataclasses.replace(work, clock_price=work.clock_price * 7, bit=work.bit * 3)
    both = Work(
        **{
            field.name: getattr(work, field.name)
            if field.name == "weight"
            else np.concatenate(
                [getattr(work, field.name), getattr(others, field.name)],
                axis=0 if field.name in ("clock_price", "bit_price") else 1,
            )
            for field in dataclasses.fields(Work)
        }
    )
    together = value_of(both, limits, solve_controls(both, limits))
    alone = [value_of(one, limits, solve_controls(one, limits))[0] for one in (work, others)]
    assert together == pytest.approx(alone, rel=2e-4)


def test_without_a_price_of_energy_everything_that_delays_is_at_its_most():
    """One client, whose time falls with clock and power, and nothing speaks against either."""
    work, limits = drawn(generator(1, "controls"), 1, shared=False)
    free = dataclasses.replace(work, clock_price=0 * work.clock_price, bit_price=0 * work.bit_price)
    found = solve_controls(free, limits)
    assert found.share[0, 0] > 0.999
    assert found.second_per_bit[0] == pytest.approx(limits.least_second_per_bit(limits.band_hz), rel=1e-3)


def test_one_client_by_hand():
    """Least of e φ² + w a/φ is at φ = (w a / 2e)^(1/3) = (1 · 2 / 16)^(1/3) = 1/2, with rates given."""
    one = np.ones((1, 1, 1))
    work = Work(
        clock_s=2 * one, bit=0 * one, given_s=0 * one, weight=np.ones(1), floor_s=np.zeros((1, 1)),
        clock_price=8 * one[0], bit_price=0 * one[0],
    )  # fmt: skip
    limits = Limits(
        lowest_share=np.array([0.1]), most_watt=np.ones(1), gain_to_noise_hz_per_watt=np.ones(1),
        band_hz=np.ones(1), total_hz=None, second_per_bit=np.ones(1),
    )  # fmt: skip
    found = solve_controls(work, limits)
    assert found.share[0, 0] == pytest.approx(0.5, rel=1e-2)
    assert value_of(work, limits, found)[0] == pytest.approx(8 / 4 + 2 / 0.5, rel=1e-4)


def test_what_cannot_be_changed_stays_as_it_is():
    work, limits = drawn(generator(2, "controls"), 3, shared=False)
    given = dataclasses.replace(
        limits, lowest_share=np.ones(3), second_per_bit=limits.least_second_per_bit(limits.band_hz)
    )
    found = solve_controls(work, given)
    assert (found.share == 1).all()
    assert (found.second_per_bit[0] == given.second_per_bit).all()


def test_a_setting_costs_what_the_problem_says():
    """A clock of half and 1 W at 1 bit per second and hertz: p = W/g (2 - 1) = 2; time 3/0.5 + 4 · 1 + 5 = 15.

    Cost: 7 · 15 + 8 · 0.25 + 10 · 2 · 1 = 127.
    """
    one = np.ones((1, 1, 1))
    work = Work(
        clock_s=3 * one, bit=4 * one, given_s=5 * one, weight=np.array([7.0]), floor_s=np.zeros((1, 1)),
        clock_price=8 * one[0], bit_price=10 * one[0],
    )  # fmt: skip
    limits = Limits(
        lowest_share=np.array([0.1]), most_watt=np.array([9.0]), gain_to_noise_hz_per_watt=np.array([0.5]),
        band_hz=np.ones(1), total_hz=None,
    )  # fmt: skip
    setting = Setting(share=0.5 * one[0], second_per_bit=one[0], band_hz=one[0])
    assert value_of(work, limits, setting)[0] == pytest.approx(127)
