"""The command line: fit, validate, test, predict, plan, audit, tradeoff, recipes."""

from lightning_sfl.cli.app import main

__all__ = ["main"]
