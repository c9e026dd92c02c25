"""What quantisation errs, against the quantiser that is used, and the fewest bits."""

import itertools

import numpy as np
import pytest
import torch
from codec_cases import roundtrip

from lightning_sfl.link.codecs import Draw, StochasticUniform
from lightning_sfl.policies.quantisation import quantisation_error, quantisation_variance
from lightning_sfl.policies.solvers.bits import fewest


def test_the_measured_error_is_below_the_formula_and_its_mean_is_0():
    """20 draws of 4000 normal numbers; with 1 bit and numbers halfway between the levels it is met exactly.

    The mean of all errors of at most a step s has a standard deviation of at most s/(2 √80000); six of them, and the
    quantiser's own bias of 2^-13 of a step.
    """
    tensor = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    extent = float(tensor.max() - tensor.min())
    for bits in (1, 2, 4, 6, 8):
        step = extent / (2**bits - 1)
        errors = torch.stack(
            [roundtrip(StochasticUniform(bits=bits), tensor, Draw(0, "t", (place,))) - tensor for place in range(20)]
        ).double()
        most = float(quantisation_error(bits, 4000, extent))
        assert most == pytest.approx(4000 * step**2 / 4)
        assert most / 4 < errors.square().sum(dim=1).mean() < most
        assert abs(errors.mean()) < 6 * step / (2 * 80000**0.5) + 2**-13 * step
    halfway = torch.cat([torch.full((4000,), 0.5), torch.tensor([0.0, 1.0])])
    found = roundtrip(StochasticUniform(bits=1), halfway, Draw(0, "t", (0,))) - halfway
    assert found.square().sum() == pytest.approx(float(quantisation_error(1, 4000, 1.0)))


def test_it_falls_fourfold_per_bit():
    """(2^(q+1) - 1)²/(2^q - 1)² is within 1 % of 4 from 8 bits on; 1/(4 · 1²) with one bit, 0 without a quantiser."""
    error = quantisation_error(np.arange(8, 17))
    assert error[:-1] / error[1:] == pytest.approx(np.full(8, 4.0), rel=0.01)
    assert quantisation_error(8) == pytest.approx(1 / (4 * 255**2))
    assert quantisation_error(np.array([32, 1])).tolist() == [0.0, 0.25]


def test_the_bounds_variance_is_the_clients_mean():
    """C = 3; with one bit 2 elements of range 2 err by 2 · 4 · 0.25 = 2, those of a client at 32 bits by nothing."""
    assert quantisation_variance(np.array([1, 32]), 2, 2.0, 3.0) == 3.0 * (2.0 + 0.0) / 2


def test_the_fewest_bits_against_all_choices():
    """Of all choices that keep every client's error within the limit, it is the one that sends least, on 100 cases."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        clients, choices = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        sent, error = rng.uniform(size=(2, clients, choices))
        rows = np.arange(clients)
        allowed = [
            sent[rows, list(each)].sum()
            for each in itertools.product(range(choices), repeat=clients)
            if (error[rows, list(each)] <= 0.6).all()
        ]
        found = fewest(sent, error, 0.6)
        assert (found < 0).any() == (not allowed)
        if allowed:
            assert sent[rows, found].sum() == min(allowed)


def test_who_cannot_be_within_the_limit_is_said():
    assert fewest(np.ones((2, 2)), np.array([[0.5, 0.1], [0.5, 0.4]]), 0.3).tolist() == [1, -1]
