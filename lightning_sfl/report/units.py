"""Numbers with units, for people to read."""

import math


def bytes_text(value: float | None) -> str:
    """Bytes in the binary unit that fits; a dash for an unknown number."""
    if value is None:
        return "–"
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1)):
        if round(value, digits) < 1024:
            return f"{value:,.{digits}f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def flop_text(value: float) -> str:
    """Floating point operations in the decimal unit that fits."""
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


def _decimal(value: float | None, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits, in the largest unit of which there is at least one."""
    if value is None or math.isnan(value):
        return "–"
    unit, size = next((found for found in units if float(f"{value:.3g}") >= found[1]), units[-1])
    number = f"{value / size:#.3g}".removesuffix(".")
    return f"{value / size:,.0f} {unit}" if "e" in number else f"{number} {unit}"
