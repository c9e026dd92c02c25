"""Stepping one party's optimizer, with the hooks by which a user looks at gradients or changes them."""

from typing import cast

import lightning.pytorch as pl
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_sfl.clients import Shard

_GRADIENT_HOOKS = ("on_after_backward", "on_before_optimizer_step")


class PartySteps:
    """Steps clients and server replicas after the trainer has stepped the server.

    `on_after_backward` and `on_before_optimizer_step` run once for every party, with its weights and gradients in the
    module's place and nobody else's; clipping is each party's own, since no party knows the others' norm.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        module = trainer.lightning_module
        callbacks = cast(list[pl.Callback], getattr(trainer, "callbacks", []))
        self._has_hooks = any(
            is_overridden(hook, module, pl.LightningModule)
            or any(is_overridden(hook, callback, pl.Callback) for callback in callbacks)
            for hook in _GRADIENT_HOOKS
        )

    def step(self, party: Shard) -> None:
        """Run the hooks, clip, and step."""
        if party.optimizer is None or not party.has_gradients():
            party.drop_gradients()
            return
        if self._has_hooks:
            with party.installed():
                call._call_callback_hooks(self._trainer, "on_after_backward")
                call._call_lightning_module_hook(self._trainer, "on_after_backward")
                call._call_callback_hooks(self._trainer, "on_before_optimizer_step", party.optimizer)
                call._call_lightning_module_hook(self._trainer, "on_before_optimizer_step", party.optimizer)
        self._trainer.lightning_module.configure_gradient_clipping(
            party.optimizer,
            gradient_clip_val=self._trainer.gradient_clip_val,
            gradient_clip_algorithm=cast(str, self._trainer.gradient_clip_algorithm),
        )
        party.step()
