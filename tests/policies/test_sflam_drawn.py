"""SFLAM and its baselines on drawn clients, hard ones among them."""

import numpy as np
import pytest
from sflam_cases import drawn_observation

from lightning_sfl.policies.decision import check
from lightning_sfl.policies.equal_bandwidth import EqualBandwidth
from lightning_sfl.policies.fixed_bits import FixedBits
from lightning_sfl.policies.maximum_power import MaximumPower
from lightning_sfl.policies.quantisation import quantisation_error
from lightning_sfl.policies.sflam import SFLAM


def meets_all(rng, policy, most_error):
    """Draws clients and checks a decision: the band, a subchannel each, powers, the error, and finite figures."""
    clients = int(rng.integers(1, 6))
    seen = drawn_observation(rng, clients, hard=rng.random() < 0.6)
    decision = policy.decide(seen)
    check(policy, seen, decision)
    allocation = decision.allocation
    number = np.array(allocation.bandwidth_hz) / (seen.radio.total_hz / (8 * clients))
    assert number == pytest.approx(np.round(number), rel=1e-9)
    assert number.min() >= 1 - 1e-9
    assert sum(allocation.bandwidth_hz) == pytest.approx(seen.radio.total_hz, rel=1e-9)
    assert (quantisation_error(np.array(allocation.bits)) <= most_error).all()
    assert all(np.isfinite(value) for value in decision.figures.values())
    assert decision.figures["objective"] <= decision.figures["first_objective"] * (1 + 1e-9)


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_sflam_meets_all_constraints(count):
    """One client, a channel near zero, very fast and very slow devices, powers of ten of bits and bands."""
    rng = np.random.default_rng(count)
    for _ in range(count):
        most_error = 10 ** rng.uniform(-10, 0)
        meets_all(rng, SFLAM(weight=10 ** rng.uniform(-4, 0), most_error=most_error), most_error)


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("policy", [MaximumPower, EqualBandwidth, FixedBits])
def test_baselines_meet_all_constraints(policy, count):
    rng = np.random.default_rng(count + 1)
    for _ in range(count):
        meets_all(rng, policy(weight=10 ** rng.uniform(-4, 0)), np.inf)
