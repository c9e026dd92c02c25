"""Stepping all parties, with the hooks by which a user looks at gradients or changes them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from lightning_sfl.clients import Shard
from lightning_sfl.strategy.loss_scale import loss_scaler
from lightning_sfl.strategy.server_gradients import ServerGradients

_GRADIENT_HOOKS = ("on_after_backward", "on_before_optimizer_step")


class PartySteps:
    """Steps the server, then clients and server replicas.

    `on_after_backward` and `on_before_optimizer_step` run once for every party, with its weights and gradients in the
    module's place and nobody else's; clipping is each party's own, since no party knows the others' norm.

    Args:
        trainer: The trainer.
        server: The server's gradients.
    """

    def __init__(self, trainer: pl.Trainer, server: ServerGradients) -> None:
        self._trainer = trainer
        self._server = server
        self._module = module = trainer.lightning_module
        callbacks = cast(list[pl.Callback], getattr(trainer, "callbacks", []))
        self._has_hooks = any(
            is_overridden(hook, module, pl.LightningModule)
            or any(is_overridden(hook, callback, pl.Callback) for callback in callbacks)
            for hook in _GRADIENT_HOOKS
        )

    def after_backward(self, loss: Tensor, parties: Iterable[Shard]) -> Tensor:
        """Put the server's gradients in place, and run the hook that follows a backward pass.

        Returns:
            The loss without its graph.
        """
        self._server.put()
        if self._server.any():
            self._trainer.precision_plugin.post_backward(loss, self._module)
        if not self._has_hooks:
            return loss.detach()
        self._server.hold()  # a party's hooks see its own gradients alone
        for party in parties:
            if _steps(party):
                with party.installed():
                    call._call_callback_hooks(self._trainer, "on_after_backward")
                    call._call_lightning_module_hook(self._trainer, "on_after_backward")
        self._server.put()
        return loss.detach()

    def step(
        self, optimizer: Optimizer, closure: Callable[[], Any], parties: Callable[[], Sequence[Shard]], **kwargs: Any
    ) -> Any:
        """Run the closure and step everybody.

        Args:
            optimizer: The user's, which steps the server.
            closure: Runs the training step and its backward passes.
            parties: Says who else there is, once the closure has run.
            **kwargs: Of the optimizer's `step`.

        Returns:
            What stepping the server returned.
        """
        scaler = loss_scaler(self._trainer.precision_plugin)
        if scaler is not None:
            return self._step_scaled(scaler, optimizer, closure, parties, **kwargs)

        def closure_and_hooks() -> Any:
            result = closure()
            self._before_server_step(optimizer)
            return result

        result = optimizer.step(closure=closure_and_hooks, **kwargs)
        self._server.hold()
        for party in parties():
            if _steps(party):
                self._before_step(party)
                party.step()
            else:
                party.drop_gradients()
        self._server.put()
        return result

    def _step_scaled(
        self,
        scaler: torch.amp.GradScaler,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        parties: Callable[[], Sequence[Shard]],
        **kwargs: Any,
    ) -> Any:
        """As :meth:`step`; gradients are unscaled before anybody looks at them, an overflow anywhere skips all."""
        result = closure()
        everybody = parties()
        stepping = [party for party in everybody if _steps(party)] if result is not None else []
        together = _Together(optimizer, stepping)
        unscales = result is not None and (bool(stepping) or self._server.any())
        if unscales:
            scaler.unscale_(together)
        self._before_server_step(optimizer)
        self._server.hold()
        for party in stepping:
            self._before_step(party)
        self._server.put()
        if unscales:
            result = scaler.step(together, **kwargs)
            scaler.update()
        for party in everybody:
            party.drop_gradients()
        return result

    def _before_server_step(self, optimizer: Optimizer) -> None:
        """As the precision plugin does it, but a server without gradients has none to show or to clip."""
        if self._server.any():
            self._trainer.precision_plugin._after_closure(self._module, optimizer)

    def _before_step(self, party: Shard) -> None:
        assert party.optimizer is not None
        if self._has_hooks:
            with party.installed():
                call._call_callback_hooks(self._trainer, "on_before_optimizer_step", party.optimizer)
                call._call_lightning_module_hook(self._trainer, "on_before_optimizer_step", party.optimizer)
        self._module.configure_gradient_clipping(
            party.optimizer,
            gradient_clip_val=self._trainer.gradient_clip_val,
            gradient_clip_algorithm=cast(str, self._trainer.gradient_clip_algorithm),
        )


class _Together(Optimizer):
    """The server's optimizer and all parties' as one, so that a loss scaler sees one overflow and steps all or none."""

    def __init__(self, optimizer: Optimizer, parties: Sequence[Shard]) -> None:  # without state or hooks of its own
        self._optimizer = optimizer
        self._parties = parties
        own = [party.optimizer for party in parties if party.optimizer is not None]
        self.param_groups = [group for each in (optimizer, *own) for group in each.param_groups]

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        """Step everybody."""
        result = self._optimizer.step(**kwargs)
        for party in self._parties:
            party.step()
        return result


def _steps(party: Shard) -> bool:
    """Whether there is something to step, and somebody to do it."""
    return party.optimizer is not None and party.has_gradients()
