"""A channel of given rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transmissions import sent

from lightning_sfl.world.channel.rates import RateChannel

MEGA = 1e6


def spread(clients=3, sigma=0.5 * MEGA, seed=0, **changed):
    fields = {
        "mean_uplink_bit_per_s": np.full(clients, MEGA),
        "mean_downlink_bit_per_s": 4 * MEGA,
        "uplink_sigma_bit_per_s": sigma,
        "downlink_sigma_bit_per_s": np.multiply(4, sigma),
        "seed": seed,
    }
    return RateChannel(**{**fields, **changed})


def test_given_rates_by_hand():
    """3 Mbit at 2 Mbit/s are 1.5 s; nothing takes no time."""
    channel = RateChannel(mean_uplink_bit_per_s=[MEGA, 2 * MEGA], mean_downlink_bit_per_s=[5 * MEGA, 6 * MEGA])
    assert channel.uplink_s(np.array([3 * MEGA, 0.0]), sent(1, 0)).tolist() == [1.5, 0.0]
    assert channel.downlink_s(np.array([3 * MEGA, 5 * MEGA]), sent(1, 0)).tolist() == [0.5, 1.0]
    assert channel.uplink_bit_per_s(sent(1, 0, round=9)).tolist() == [2 * MEGA, MEGA]
    assert channel.downlink_bit_per_s(sent(0)).tolist() == [5 * MEGA]
    assert not channel.varies_within_round


def test_a_spread_has_its_mean_and_deviation():
    """The normal distribution, cut off two deviations below its mean (Φ(2) = 0.97725, φ(2) = 0.05399).

    Mean: 1 + ½·φ/Φ = 1.0276. Variance: ¼·(1 - 2·φ/Φ - (φ/Φ)²) = 0.2216. Standard errors of 4,000: 0.0074 and 0.005.
    """
    rates = spread(4000).uplink_bit_per_s(sent(*range(4000))) / MEGA
    assert rates.min() > 0
    assert rates.mean() == pytest.approx(1.0276, abs=0.025)
    assert rates.var() == pytest.approx(0.2216, abs=0.02)


def test_a_wide_spread_stays_above_zero():
    """Ten deviations wide: of the first 1,000 draws 46 % fall below 0 and are drawn again, until none does."""
    rates = spread(1000, sigma=10 * MEGA).uplink_bit_per_s(sent(*range(1000)))
    assert rates.min() > 0
    assert np.isfinite(rates).all()


@given(seed=st.integers(0, 1000), round=st.integers(0, 1000))
def test_a_clients_rate_is_its_own(seed, round):
    """Neither who else sends, nor how many are registered, nor another's spread moves it, though some draw again."""
    few = spread(3, sigma=2 * MEGA, seed=seed)
    many = spread(9, sigma=[2 * MEGA, 2 * MEGA, *[9 * MEGA] * 7], seed=seed, downlink_sigma_bit_per_s=0.0)
    alone = few.uplink_bit_per_s(sent(1, round=round))[0]
    assert alone == few.uplink_bit_per_s(sent(2, 1, 0, round=round, start_s=5.0))[1]
    assert alone == many.uplink_bit_per_s(sent(8, 1, round=round))[1]
    assert few.uplink_s(np.array([alone]), sent(1, round=round)).tolist() == [1.0]


def test_rounds_and_directions_are_independent():
    everybody = list(range(2000))
    up, later = (spread(2000).uplink_bit_per_s(sent(*everybody, round=round)) for round in (0, 1))
    down = spread(2000).downlink_bit_per_s(sent(*everybody))
    assert abs(np.corrcoef(up, later)[0, 1]) < 0.09
    assert abs(np.corrcoef(up, down)[0, 1]) < 0.09


def test_one_without_spread_among_others_stays():
    channel = spread(2, sigma=[0.0, MEGA])
    assert channel.uplink_bit_per_s(sent(0, 1))[0] == MEGA
    assert channel.uplink_bit_per_s(sent(0, 1))[1] != MEGA


def test_the_same_seed_gives_the_same_rates_on_every_machine():
    """Recorded once, seed 5; clients 1 and 2 draw again."""
    found = spread(3, sigma=2 * MEGA, seed=5).uplink_bit_per_s(sent(0, 1, 2, round=7))
    assert [x.hex() for x in found] == ["0x1.b6be31e45b264p+19", "0x1.62b47db12f91cp+17", "0x1.29fb28933fb4ap+21"]


def test_an_allocation_that_it_cannot_use_is_refused_by_name():
    with pytest.raises(ValueError, match="power_watt is allocated, but the rates of RateChannel are given"):
        spread().uplink_s(np.ones(1), sent(0, power_watt=[0.1]))
    with pytest.raises(ValueError, match="bandwidth_hz is allocated, but the rates of RateChannel are given"):
        spread().downlink_bit_per_s(sent(0, bandwidth_hz=[1.0]))


def test_bad_rates_are_refused():
    with pytest.raises(ValueError, match=r"mean_uplink_bit_per_s=...\) of client 1 is 0; it must be above 0"):
        RateChannel(mean_uplink_bit_per_s=[1.0, 0.0], mean_downlink_bit_per_s=1.0)
    with pytest.raises(ValueError, match=r"uplink_sigma_bit_per_s=...\) of client 0 is -1; it must be at least 0"):
        spread(sigma=-1.0)
    spread(3).check(3)
    with pytest.raises(ValueError, match="RateChannel is for 3 clients, but num_clients=4"):
        spread(3).check(4)
