"""Directions drawn from seeds, moves along them, and the gradient that slopes along them give."""

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_sfl.zeroth_order.directions import Directions, Distribution, direction, draw_seeds

GAUSSIAN = [0.9530982375144958, -0.9810543656349182, -0.18720656633377075]
SIGNS = [-1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0]
SEEDS = [1310050410074249832, 1589568911367475467]
BOTH = pytest.mark.parametrize("distribution", list(Distribution))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def test_the_numbers_of_a_seed_are_these():
    """Fixed once and for all: a checkpoint's pairs, and a client of another version, would mean other steps else."""
    gaussian = direction(torch.empty(3), 2, 12345, Distribution.GAUSSIAN)
    signs = direction(torch.empty(10), 2, 12345, Distribution.RADEMACHER)
    assert gaussian.tolist() == GAUSSIAN
    assert signs.tolist() == SIGNS
    assert draw_seeds(3, 7, 2).tolist() == SEEDS


@given(place=st.integers(0, 50), seed=st.integers(0, 2**63 - 2), count=st.integers(1, 40), more=st.integers(0, 40))
@settings(max_examples=30)
def test_a_direction_depends_on_seed_and_place_alone(place, seed, count, more):
    for distribution in Distribution:
        short, long = (direction(torch.empty(n), place, seed, distribution) for n in (count, count + more))
        assert torch.equal(short, long[:count])
        if count > 20:
            assert not torch.equal(short, direction(torch.empty(count), place + 1, seed, distribution))
            assert not torch.equal(short, direction(torch.empty(count), place, seed + 1, distribution))


@BOTH
def test_clients_with_different_cuts_share_the_numbers_of_shared_layers(distribution):
    """The same layers at the front of a longer model, or frozen behind, have the same directions."""
    short, long = model(), nn.Sequential(*model(), nn.Linear(2, 5))
    long[2].requires_grad_(False)
    seeds = draw_seeds(0, 0, 2)
    ours, theirs = (Directions(each, seeds, distribution) for each in (short, long))
    for name, _ in short.named_parameters():
        assert torch.equal(ours.of(name, 1), theirs.of(name, 1))


@BOTH
def test_numbers_are_those_of_the_distribution(distribution):
    """Mean 0, variance 1, fourth moment 3 or 1; n = 200,000, so 5 standard errors are 5·√(1/n), 5·√(2/n), 5·√(96/n)."""
    u = direction(torch.empty(200_000), 0, 5, distribution).double()
    n = len(u)
    assert abs(float(u.mean())) < 5 * math.sqrt(1 / n)
    assert abs(float((u**2).mean()) - 1) < 5 * math.sqrt(2 / n)
    fourth = 3 if distribution is Distribution.GAUSSIAN else 1
    assert abs(float((u**4).mean()) - fourth) < 5 * math.sqrt(96 / n)
    assert abs(float((u[:-1] * u[1:]).mean())) < 5 * math.sqrt(1 / n)


@BOTH
def test_the_estimates_error_is_kappa(distribution):
    """E‖ĝ − g‖² = κ‖g‖² for a linear function, whose slopes along u are gᵀu (HO-FL, eq. 40).

    One Gaussian direction in d dimensions has X = ‖(gᵀu)u − g‖² / ‖g‖² = a(a + r − 2) + 1, where a ~ χ²₁, r ~ χ²_{d-1}.
    With m = d − 1: E[a(a + r − 2)] = 3 + m − 2 = d, so E X = d + 1. From E a² = 3, E a³ = 15, E a⁴ = 105 and
    E r² = m² + 2m follows Var X = 2m² + 22m + 56. For ±1, X = (gᵀu)²(d − 2) / ‖g‖² + 1, so E X = d − 1, and Var X is
    at most 2(d − 2)², as E(gᵀu)⁴ ≤ 3‖g‖⁴. The mean of n = 2,000 is within 5 standard errors.
    """
    small, n = model(), 2000
    names = [name for name, _ in small.named_parameters()][:2]
    gradients = {name: torch.randn_like(small.get_parameter(name)) for name in names}
    d = sum(gradient.numel() for gradient in gradients.values())
    norm = sum(float((gradient**2).sum()) for gradient in gradients.values())
    errors = []
    for step in range(n):
        directions = Directions(small, draw_seeds(1, step, 1), distribution)
        slopes = directions.slopes(gradients)
        estimated = {name: directions.estimate(name, slopes) for name in names}
        errors.append(sum(float(((estimated[name] - gradients[name]) ** 2).sum()) for name in names) / norm)
    m = d - 1
    variance = 2 * m**2 + 22 * m + 56 if distribution is Distribution.GAUSSIAN else 2 * (d - 2) ** 2
    assert abs(sum(errors) / n - distribution.kappa(d, 1)) < 5 * math.sqrt(variance / n)


@BOTH
@pytest.mark.parametrize("probes", [2, 5])
def test_more_directions_divide_the_error(distribution, probes):
    """The error of a mean of P independent estimates is that of one, divided by P; 5 standard errors of the sample."""
    small, n = model(), 800
    gradient = {"0.weight": torch.randn(3, 4)}
    errors = []
    for step in range(n):
        directions = Directions(small, draw_seeds(2, step, probes), distribution)
        estimated = directions.estimate("0.weight", directions.slopes(gradient))
        errors.append(float(((estimated - gradient["0.weight"]) ** 2).sum() / (gradient["0.weight"] ** 2).sum()))
    sample = torch.tensor(errors)
    assert abs(float(sample.mean()) - distribution.kappa(12, probes)) < 5 * float(sample.std()) / math.sqrt(n)


@BOTH
def test_weights_are_moved_and_come_back_as_they_were(distribution):
    small = model()
    before = {name: own.detach().clone() for name, own in small.named_parameters()}
    directions = Directions(small, draw_seeds(0, 0, 1), distribution)
    with contextlib.suppress(KeyError), directions.moved(["0.weight", "2.bias"], 0, 0.1):
        for name, own in small.named_parameters():
            moved = before[name] + 0.1 * directions.of(name, 0) if name in ("0.weight", "2.bias") else before[name]
            assert torch.allclose(own, moved, atol=1e-7)
        raise KeyError
    assert all(torch.equal(own, before[name]) for name, own in small.named_parameters())


@BOTH
def test_directions_that_are_not_kept_are_drawn_again(distribution):
    """12 numbers of 4 bytes are one direction, and 60 bytes hold one."""
    small, seeds = model(), draw_seeds(0, 0, 3)
    kept = [Directions(small, seeds, distribution).of("0.weight", p) for p in range(3)]
    again = Directions(small, seeds, distribution, keeps_byte=60)
    for _ in range(2):
        assert all(torch.equal(again.of("0.weight", p), kept[p]) for p in range(3))
    assert len(again._kept) == 1


def test_half_precision_weights_keep_their_type():
    small = model().to(torch.bfloat16)
    directions = Directions(small, draw_seeds(0, 0, 1), Distribution.GAUSSIAN)
    with directions.moved(["0.weight"], 0, 0.1):
        assert small[0].weight.dtype == torch.bfloat16
    assert directions.estimate("0.weight", [1.0]).dtype == torch.bfloat16
