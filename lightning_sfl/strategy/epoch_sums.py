"""Means over an epoch of what `training_step` logs, in a run that goes on within the epoch.

Lightning begins them anew at a checkpoint, so that schedulers and callbacks which follow one would decide otherwise
than in a run that was not stopped.
"""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

_HOOK = "training_step"
_SUMS = ("value", "cumulated_batch_size")


def epoch_sums(trainer: pl.Trainer) -> dict[str, dict[str, Tensor]]:
    """What was added up so far in an epoch that is not over, for checkpoints."""
    loop = trainer.fit_loop.epoch_loop
    if loop._num_ready_batches_reached():
        return {}
    return {
        key: {name: getattr(metric, name).detach().clone() for name in _SUMS if hasattr(metric, name)}
        for key, metric in loop._results.items()
        if metric.meta.fx == _HOOK and metric.meta.on_epoch and metric.is_tensor and not metric.has_reset
    }


class EpochSums:
    """Adds what was added up before to what is logged, once each value has been logged for the first time.

    Args:
        sums: What :func:`epoch_sums` gave.
        epoch: The epoch they are of.
    """

    def __init__(self, sums: Mapping[str, Mapping[str, Tensor]], epoch: int) -> None:
        self._sums = dict(sums)
        self._epoch = epoch

    def add_to(self, results: Mapping[str, Any], epoch: int) -> None:
        """Add them to what was logged; the order of the sum is that of a run that was not stopped."""
        if epoch != self._epoch:
            self._sums = {}
        for key in [key for key in self._sums if key in results and not results[key].has_reset]:
            metric, earlier = results[key], self._sums.pop(key)
            together: Callable[[Tensor, Tensor], Tensor] = torch.add
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                together = torch.maximum if metric.meta.is_max_reduction else torch.minimum
            for name, value in earlier.items():
                now = getattr(metric, name)
                setattr(metric, name, together(value.to(now.device), now))
