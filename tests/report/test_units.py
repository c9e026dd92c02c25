import math

import pytest

from lightning_sfl.report.units import bytes_text, flop_text, joule_text, seconds_text


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
        (math.nan, "–"),
        (0.0, "0.00 µs"),
        (3.5e-5, "35.00 µs"),
        (0.9994, "999.40 ms"),
        (0.999_996, "1.00 s"),
        (12.345, "12.35 s"),
        (5400.0, "5,400.00 s"),
    ],
)
def test_seconds_are_shown_in_the_unit_that_fits(value, text):
    assert seconds_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(math.nan, "–"), (0.02, "20.00 mJ"), (7.5, "7.50 J"), (2e6, "2.00 MJ")])
def test_joules_are_shown_in_the_unit_that_fits(value, text):
    assert joule_text(value) == text
