"""Silence for what Lightning tells a user at every fit, which would stand between the rows of a table."""

import logging
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning


def quiet(*loggers: str) -> None:
    """Leave out Lightning's advice and its notes, and those of further loggers; other warnings are shown.

    Its summary of FLOPs asks a tree specification for its class, of which torch 2.15 warns at every fit.
    """
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    for name in ("lightning.pytorch", "lightning_sfl", *loggers):
        logging.getLogger(name).setLevel(logging.ERROR)
