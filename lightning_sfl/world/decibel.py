"""Decibels as plain numbers."""

from decimal import Decimal


def db_to_ratio(db: float) -> float:
    """The power ratio that a number of decibels stands for: 10^(dB/10)."""
    # Decimal arithmetic is the same on every machine, the C library's pow is not.
    return float(Decimal(10) ** (Decimal(db) / 10))


def dbm_to_watt(dbm: float) -> float:
    """The power in watts that a level in dBm stands for: 10^((dBm - 30)/10), 0 dBm being a milliwatt.

    It does for densities, too: dBm/Hz become W/Hz.
    """
    return db_to_ratio(dbm - 30.0)
