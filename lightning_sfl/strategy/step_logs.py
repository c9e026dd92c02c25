"""`self.log` in a step that runs once per client.

Lightning keeps logged values in a result collection made for one `training_step` per batch. On epoch level it adds up
value × batch size, which is right for several calls once each call's batch size is that client's. On step level it
keeps the last call's value; here it is made the mean over the step's clients, weighted by samples (or the sum, maximum
or minimum where the user logs with that reduction). The collection is internal to Lightning; nothing else touches it.
"""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_sfl.strategy.epoch_sums import EpochSums

_HOOK = "training_step"


class StepLogs:
    """The logged values of one step, client by client.

    Args:
        trainer: The trainer.
        earlier: What was logged in the epoch before a run went on.
    """

    def __init__(self, trainer: pl.Trainer, earlier: EpochSums) -> None:
        self._epoch = trainer.current_epoch
        self._earlier = earlier
        self._results: Any = None if trainer.barebones else trainer._results
        self._seen: dict[str, list[tuple[Tensor, float]]] = {}

    def begin_client(self, batch: object) -> None:
        """A client's `training_step` is about to run: batch sizes are inferred from its batch."""
        if self._results is None:
            return
        self._results.batch = batch
        self._results.batch_size = None
        for metric in self._metrics().values():
            metric._forward_cache = None

    def end_client(self, samples: int) -> None:
        """A client's `training_step` has run."""
        for key, metric in self._metrics().items():
            if metric._forward_cache is not None:
                self._seen.setdefault(key, []).append((metric._forward_cache, float(samples)))
        if self._results is not None:
            self._earlier.add_to(self._results, self._epoch)

    def end_step(self, batch: object, samples: int) -> None:
        """All clients have run: put one value per key in place of the last client's."""
        if self._results is None:
            return
        self._results.batch = batch
        self._results.batch_size = samples
        metrics = self._metrics()
        for key, seen in self._seen.items():
            metric = metrics[key]
            value = _together(metric.meta, [value for value, _ in seen], [weight for _, weight in seen])
            metric._forward_cache = value
            if metric.is_tensor and not metric.meta.on_epoch:
                metric.value = value

    def _metrics(self) -> dict[str, Any]:
        if self._results is None:
            return {}
        return {key: metric for key, metric in self._results.items() if metric.meta.fx == _HOOK and metric.meta.on_step}


def _together(meta: Any, values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if len(values) == 1:
        return values[0]
    stacked = torch.stack(list(values))
    if meta.is_sum_reduction:
        return stacked.sum(0)
    if meta.is_max_reduction:
        return stacked.amax(0)
    if meta.is_min_reduction:
        return stacked.amin(0)
    share = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device) / sum(weights)
    return (stacked * share.view(-1, *[1] * (stacked.ndim - 1))).sum(0)
