"""Callbacks: what joins the world and policies to a training run."""

from lightning_sfl.callbacks.adaptive_split import AdaptiveSplit
from lightning_sfl.callbacks.efficiency import EfficiencyMonitor

__all__ = ["AdaptiveSplit", "EfficiencyMonitor"]
