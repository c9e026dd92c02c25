"""Numbers with units, for people to read."""


def bytes_text(value: float | None) -> str:
    """Bytes in the binary unit that fits; a dash for an unknown number."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def flop_text(value: float) -> str:
    """Floating point operations in the decimal unit that fits."""
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:,.1f} {unit}FLOP"
        value /= 1000
    return f"{value:,.1f} TFLOP"
