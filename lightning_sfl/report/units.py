"""Numbers with units, for people to read."""

import math

from lightning_sfl.report.leakage import Interval


def bytes_text(value: float | None) -> str:
    """Bytes in the binary unit that fits; a dash for an unknown number."""
    if value is None:
        return "–"
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1)):
        if round(value, digits) < 1024:
            return f"{value:,.{digits}f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def flop_text(value: float | None) -> str:
    """Floating point operations in the decimal unit that fits; a dash for an unknown number."""
    if value is None:
        return "–"
    for unit in ("", "k", "M", "G"):
        if round(value, 1) < 1000:
            return f"{value:,.1f} {unit}FLOP"
        value /= 1000
    return f"{value:,.1f} TFLOP"


def seconds_text(value: float | None) -> str:
    """Seconds in the decimal unit that fits, up to seconds; a dash for an unknown number."""
    return _decimal(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def joule_text(value: float | None) -> str:
    """Joules in the decimal unit that fits; a dash for an unknown number."""
    return _decimal(value, (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)))


def measured_text(value: float, measure: str) -> str:
    """What an attack was measured to do: decibels to a tenth, shares to a hundredth."""
    return f"{value:.1f}" if "dB" in measure else f"{value:.2f}"


def interval_text(interval: Interval, measure: str) -> str:
    """A mean with its interval, or with the reason why there is none."""
    return _with_bounds(
        interval, [measured_text(value, measure) for value in (interval.mean, *(interval.bounds or ()))]
    )


def other_text(interval: Interval) -> str:
    """The same of a measure of unknown size: three significant digits."""
    return _with_bounds(interval, [f"{value:.3g}" for value in (interval.mean, *(interval.bounds or ()))])


def probability_text(value: float) -> str:
    """A p-value to a thousandth."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _with_bounds(interval: Interval, texts: list[str]) -> str:
    if interval.bounds is None:
        return f"{texts[0]} (no interval: {interval.records} record{'' if interval.records == 1 else 's'})"
    return "{} [{}, {}]".format(*texts)


def _decimal(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits, in the largest unit of which there is at least one."""
    if value is None or math.isnan(value):
        return "–"
    unit, size = next((found for found in units if float(f"{value:.3g}") >= found[1]), units[-1])
    number = f"{value / size:#.3g}".removesuffix(".")
    return f"{value / size:,.0f} {unit}" if "e" in number else f"{number} {unit}"
