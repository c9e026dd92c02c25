import math

import pytest
from report_cases import interval

from lightning_sfl.report.units import (
    bytes_text,
    flop_text,
    interval_text,
    joule_text,
    measured_text,
    other_text,
    probability_text,
    seconds_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (40, "40 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (1536.0, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (2.5 * 1024**2, "2.5 MiB"),
        (1024**3, "1.0 GiB"),
        (3000 * 1024**3, "3,000.0 GiB"),
    ],
)
def test_bytes_are_shown_in_the_binary_unit_that_fits(value, text):
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 FLOP"),
        (999, "999.0 FLOP"),
        (1000, "1.0 kFLOP"),
        (147_456, "147.5 kFLOP"),
        (2_500_000, "2.5 MFLOP"),
        (7.25e9, "7.2 GFLOP"),
        (1e12, "1.0 TFLOP"),
        (1.234e15, "1,234.0 TFLOP"),
    ],
)
def test_flop_are_shown_in_the_decimal_unit_that_fits(value, text):
    assert flop_text(value) == text


@pytest.mark.parametrize("value", [1023.96 * 1024, 1024**3 - 1])
def test_bytes_are_never_rounded_up_to_a_full_unit_of_the_next(value):
    assert not bytes_text(value).startswith("1,024")


@pytest.mark.parametrize("value", [999.96, 999.999e6])
def test_flop_are_never_rounded_up_to_a_full_unit_of_the_next(value):
    assert not flop_text(value).startswith("1,000")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0, "0.00 µs"),
        (2.5e-7, "0.250 µs"),
        (0.00125, "1.25 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
        (123.4, "123 s"),
        (45678.0, "45,678 s"),
    ],
)
def test_seconds_are_shown_in_three_digits(value, text):
    assert seconds_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (3e-6, "3.00 µJ"), (0.25, "250 mJ"), (12.0, "12.0 J"), (3e9, "3,000 MJ")]
)
def test_joules_are_shown_in_three_digits(value, text):
    assert joule_text(value) == text


@pytest.mark.parametrize(
    ("value", "measure", "text"),
    [(31.25, "PSNR (dB)", "31.2"), (100.0, "PSNR (dB)", "100.0"), (0.125, "labels right", "0.12"), (1, "AUC", "1.00")],
)
def test_decibels_are_shown_to_a_tenth_and_shares_to_a_hundredth(value, measure, text):
    assert measured_text(value, measure) == text


def test_an_interval_is_shown_with_its_bounds_or_why_there_are_none():
    assert interval_text(interval(31.25, 30.5, 32.0), "PSNR (dB)") == "31.2 [30.5, 32.0]"
    assert interval_text(interval(0.75, 0.5, 0.875), "AUC") == "0.75 [0.50, 0.88]"
    assert interval_text(interval(9, None, None, records=1), "PSNR (dB)") == "9.0 (no interval: 1 record)"
    assert interval_text(interval(9, None, None, records=3), "PSNR (dB)") == "9.0 (no interval: 3 records)"


def test_further_measures_are_shown_to_three_digits_whatever_their_size():
    assert other_text(interval(0.000312, 0.0001234, 0.5)) == "0.000312 [0.000123, 0.5]"
    assert other_text(interval(0.91, None, None, records=1)) == "0.91 (no interval: 1 record)"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.0136, "0.014"), (1.0, "1.000")]
)
def test_probabilities_are_never_shown_as_0(value, text):
    assert probability_text(value) == text
