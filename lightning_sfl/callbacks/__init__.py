"""Callbacks: what joins the world (and, later, policies) to a training run."""

from lightning_sfl.callbacks.efficiency import EfficiencyMonitor

__all__ = ["EfficiencyMonitor"]
