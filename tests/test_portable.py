"""Elementary functions against the C library's, and their exact bits."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.portable import exp, log, log1p, normal_quantile


def ulps(found, expected):
    return abs(found - expected) / math.ulp(expected)


@given(x=st.floats(1e-300, 1e300))
def test_log_is_within_an_ulp(x):
    assert ulps(log(np.array([x]))[0], math.log(x)) <= 1


@given(x=st.floats(0.5, 2.0))
def test_log_is_within_an_ulp_near_one(x):
    assert ulps(log(np.array([x]))[0], math.log(x)) <= 1


@given(x=st.floats(1e-300, 1e300))
def test_log1p_is_within_some_ulp(x):
    assert ulps(log1p(np.array([x]))[0], math.log1p(x)) <= 3


@given(x=st.floats(-700.0, 700.0))
def test_exp_is_within_an_ulp(x):
    assert ulps(exp(np.array([x]))[0], math.exp(x)) <= 1


def test_a_dense_grid_of_arguments():
    """Twenty thousand arguments on a logarithmic grid, drawn examples being few."""
    x = np.geomspace(1e-12, 1e12, 20_000)
    for own, other, bound in ((log, math.log, 1), (log1p, math.log1p, 3)):
        assert max(ulps(a, other(b)) for a, b in zip(own(x), x, strict=True) if other(b) != 0.0) <= bound
    y = np.linspace(-60.0, 60.0, 20_001)
    assert max(ulps(a, math.exp(b)) for a, b in zip(exp(y), y, strict=True)) <= 1


@given(u=st.floats(2.0**-54, 1.0 - 2.0**-53))
def test_the_normal_quantile_is_that_of_the_standard_library(u):
    assert normal_quantile(np.array([u]))[0] == pytest.approx(NormalDist().inv_cdf(u), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("u", [2.0**-54, 1e-14, 1.3e-11, 1.5e-11, 1e-4, 0.0749, 0.0751, 0.5, 0.9249, 0.9251, 1 - 1e-13])
def test_the_normal_quantile_in_every_region(u):
    """AS 241 changes its formula at |u - 0.5| = 0.425 and at u = exp(-25) = 1.4e-11."""
    assert normal_quantile(np.array([u]))[0] == pytest.approx(NormalDist().inv_cdf(u), rel=1e-14, abs=1e-15)


def test_exact_values():
    assert log(np.array([1.0, 2.0, 0.5])).tolist() == [0.0, math.log(2), -math.log(2)]
    assert log1p(np.array([0.0, 1e-20, 1.0])).tolist() == [0.0, 1e-20, math.log(2)]
    assert exp(np.array([0.0])).tolist() == [1.0]
    assert normal_quantile(np.array([0.5])).tolist() == [0.0]


def test_the_bits_are_the_same_on_every_machine():
    """Recorded once; the functions are made of correctly rounded operations alone."""
    bits = {
        log: ([3.0, 1e-3, 1.2], ["0x1.193ea7aad030ap+0", "-0x1.ba18a998fffa0p+2", "0x1.7565011e49675p-3"]),
        exp: ([1.0, -3.3, 20.0], ["0x1.5bf0a8b14576ap+1", "0x1.2e259bb85be84p-5", "0x1.ceb088b68e804p+28"]),
        log1p: ([0.3, 1e-3, 12.0], ["0x1.0ca937be1b9dbp-2", "0x1.060354f8c3ec0p-10", "0x1.485042b318c51p+1"]),
    }
    for function, (arguments, expected) in bits.items():
        assert [x.hex() for x in function(np.array(arguments))] == expected
