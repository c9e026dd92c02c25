"""Numbers with units, for people to read."""

import math
from collections.abc import Mapping


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


def seconds_text(value: float) -> str:
    """Seconds, in a thousandth or a millionth of them where there is less than one; a dash for an unknown number."""
    return _metric_text(value, {"µs": 1e-6, "ms": 1e-3, "s": 1.0})


def joule_text(value: float) -> str:
    """Joules in the decimal unit that fits; a dash for an unknown number."""
    return _metric_text(value, {"µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6})


def _metric_text(value: float, units: Mapping[str, float]) -> str:
    """A number in the first of the units, from small to large, of which there are fewer than a thousand."""
    if math.isnan(value):
        return "–"
    largest = list(units)[-1]
    unit = next((name for name, size in units.items() if round(value / size, 2) < 1000), largest)
    return f"{value / units[unit]:,.2f} {unit}"
