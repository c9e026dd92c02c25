"""The user's `on_before_batch_transfer` runs once per client, on that client's batch.

Lightning calls this hook on what the loader yields, before the strategy sees it; the other transfer hooks are called by
the strategy, client by client. For the time of a fit an override is wrapped on its object, and put back afterwards.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_sfl.data.batches import ClientBatches

_HOOK = "on_before_batch_transfer"


class PerClientTransfer:
    """Wraps the hook where it is overridden, until :meth:`undo`."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._wrapped: list[tuple[object, Any]] = []
        for owner in (trainer.lightning_module, getattr(trainer, "datamodule", None)):
            if owner is not None and is_overridden(_HOOK, owner, DataHooks):
                self._wrapped.append((owner, vars(owner).get(_HOOK)))
                setattr(owner, _HOOK, _per_client(getattr(owner, _HOOK)))

    def undo(self) -> None:
        """Put the user's own hook back."""
        for owner, own in self._wrapped:
            delattr(owner, _HOOK)
            if own is not None:
                setattr(owner, _HOOK, own)
        self._wrapped = []


def _per_client(hook: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    def on_before_batch_transfer(batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, ClientBatches):
            return hook(batch, dataloader_idx)
        for client, own in batch.batches.items():
            batch.batches[client] = hook(own, dataloader_idx)
        return batch

    return on_before_batch_transfer
