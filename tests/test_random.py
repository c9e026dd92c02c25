import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.random import exponentials, generator, normals, uniforms
from lightning_sfl.random_state import RandomState


def draws(*arguments):
    return generator(*arguments).integers(0, 2**63, size=4).tolist()


@given(
    seed=st.integers(0, 2**64),
    purpose=st.text(max_size=20),
    counters=st.lists(st.integers(0, 2**31), max_size=3),
)
def test_a_draw_depends_on_its_arguments_alone(seed, purpose, counters):
    first = draws(seed, purpose, *counters)
    draws(seed + 1, "something else")
    assert draws(seed, purpose, *counters) == first


def test_seed_purpose_and_every_counter_make_another_draw():
    arguments = [
        (0, "participants", 1, 2),
        (1, "participants", 1, 2),
        (0, "partition", 1, 2),
        (0, "participants", 2, 1),
        (0, "participants", 1, 3),
        (0, "participants", 1),
        (0, "participants"),
    ]
    assert len({tuple(draws(*each)) for each in arguments}) == len(arguments)


def test_the_numbers_stay_the_same_from_version_to_version():
    """Recorded once: a run must be repeatable with a later version of this package. NumPy keeps raw streams stable."""
    raw = generator(0, "participants", 0).bit_generator.random_raw(2)
    assert raw.tolist() == [17297695832777619518, 4366639416520113550]


def test_two_generators_of_one_purpose_do_not_move_each_other():
    one, other = generator(3, "pass", 0), generator(3, "pass", 0)
    ahead = one.random(10)
    assert other.random(10).tolist() == ahead.tolist()


def test_the_global_random_state_is_neither_read_nor_moved():
    before = RandomState.capture()
    first = draws(0, "partition")
    after = RandomState.capture()
    assert torch.equal(after.cpu, before.cpu)
    assert after.python == before.python
    assert after.numpy["state"]["pos"] == before.numpy["state"]["pos"]
    assert np.array_equal(after.numpy["state"]["key"], before.numpy["state"]["key"])
    torch.rand(1)
    random.random()
    np.random.rand()
    try:
        assert draws(0, "partition") == first
    finally:
        before.restore()


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"seed=-1 is not accepted: give an integer of at least 0"):
        generator(-1, "partition")


# Draws of a distribution


@given(few=st.integers(0, 20), more=st.integers(20, 40), seed=st.integers(0, 2**32))
def test_the_ith_draw_does_not_move_with_how_many_are_drawn(few, more, seed):
    for draw in (uniforms, exponentials, normals):
        assert draw(few, seed, "fading", 3).tolist() == draw(more, seed, "fading", 3)[:few].tolist()


def test_draws_have_their_distribution():
    """20,000 draws: the mean's standard error is 1/141 of the deviation, the variance's of Exp(1) √8/141 = 0.02."""
    exponential, normal = (draw(20_000, 0, "moments") for draw in (exponentials, normals))
    assert exponential.min() > 0
    assert exponential.mean() == pytest.approx(1, abs=0.03)
    assert exponential.var() == pytest.approx(1, abs=0.08)
    assert np.mean(exponential > 2) == pytest.approx(np.exp(-2), abs=0.01)
    assert normal.mean() == pytest.approx(0, abs=0.03)
    assert normal.var() == pytest.approx(1, abs=0.04)
    assert np.mean(np.abs(normal) < 1) == pytest.approx(0.6827, abs=0.014)


def test_draws_have_the_same_bits_on_every_machine():
    """Recorded once, seed 7; made of correctly rounded operations alone."""
    assert [x.hex() for x in uniforms(2, 7, "fleet")] == ["0x1.f3fe230e54f88p-3", "0x1.3e0e81c7a57d8p-2"]
    assert [x.hex() for x in exponentials(3, 7, "fading", 2)] == [
        "0x1.78876a5065851p-3",
        "0x1.4596f65da5a01p-1",
        "0x1.c41871986e15fp+0",
    ]
    assert [x.hex() for x in normals(3, 7, "spread", 2)] == [
        "0x1.fa89cfe49db04p-1",
        "-0x1.17ce733cb1a75p+1",
        "0x1.c18db71b1116bp-1",
    ]


def test_a_draw_of_zero_has_a_place_in_every_distribution(monkeypatch):
    """Zero stands for half a step of 2^-53: -ln(2^-54) = 54·ln 2 = 37.43; the normal quantile there is -8.3."""

    class Zeros:
        def random(self, count):
            return np.zeros(count)

    monkeypatch.setattr("lightning_sfl.random.generator", lambda *arguments: Zeros())
    assert exponentials(1, 0, "fading") == pytest.approx([54 * np.log(2)])
    assert normals(1, 0, "spread") == pytest.approx([-8.29], abs=0.01)
