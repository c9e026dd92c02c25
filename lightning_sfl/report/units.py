"""Numbers with units, for people to read."""


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
