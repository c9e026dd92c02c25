"""One client's turn in a step without a backward pass of its own: what the server trains on, and the client's scalars.

A scalar is half a loss's, or a surrogate's, difference over a move of twice μ, or the difference over one of μ: times
1/μ it is a slope along a direction.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from lightning_sfl.algorithms.forward_only import ForwardOnly, Surrogate
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.cut.find import loss_of
from lightning_sfl.cut.modes import PassHook, halt
from lightning_sfl.random_state import RandomState
from lightning_sfl.strategy.first_step import pass_through
from lightning_sfl.strategy.forward_only import Anchor, fixed_buffers, inner_product, without_graph_of
from lightning_sfl.strategy.silence import silent
from lightning_sfl.zeroth_order.directions import Directions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One client's turn.

    Attributes:
        module: The user's module.
        algorithm: The algorithm.
        directions: The step's directions.
        names: The trainable parameters that the client holds.
        others: All other trainable parameters.
        fixed: Buffers that stay as they are.
        precision: The trainer's, in whose context a loss of the client's own is computed.
        carrier: Carries what crosses.
        batch: The client's batch.
        forward: Runs the training step on it.
        trains_on: Whether the server is to train on what the step returned.
        backward: Runs the server's backward pass from it.
    """

    module: pl.LightningModule
    algorithm: ForwardOnly
    directions: Directions
    names: tuple[str, ...]
    others: tuple[str, ...]
    fixed: tuple[str, ...]
    precision: Precision
    carrier: LinkCarrier
    batch: object
    forward: Callable[[], Any]
    trains_on: Callable[[object], bool]
    backward: Callable[[object], None]

    def run(self) -> tuple[Any, list[float] | None]:
        """Run it.

        Returns:
            What the training step returned, None if it is not to be trained on; and the client's scalars (P,), None if
            it has none, since nothing came back or it has nothing to train.
        """
        with without_graph_of(self.module, self.names):
            return self._anchored() if self.algorithm.server_backpropagates else self._moved_together()

    def _anchored(self) -> tuple[Any, list[float] | None]:
        """The server backpropagates from the smashed data as they are; then the client probes."""
        surrogate, before = self.algorithm.surrogate, RandomState.capture()
        returns_gradient = surrogate is Surrogate.CUT_GRADIENT
        line = self.carrier if returns_gradient else dataclasses.replace(self.carrier, loses_gradient=True)
        anchor = Anchor()
        with self._fixed_buffers():
            with anchor.at(self.module, line.split) if self.names else nullcontext():  # no gradient for frozen weights
                output = pass_through(self.module, line, self.batch, self.forward)
            if not self.trains_on(output):
                return None, None
            self.backward(output)
        if not self.names or self.carrier.loses_gradient:
            return output, None
        after = RandomState.capture()
        try:
            if surrogate is Surrogate.FULL_LOSS:
                return output, self._full_losses(before, self.names)
            if surrogate is Surrogate.LOCAL_LOSS:
                return output, self._local_losses(before, anchor)
            return output, self._along_cut_gradient(before, anchor)
        finally:
            after.restore()

    def _along_cut_gradient(self, before: RandomState, anchor: Anchor) -> list[float] | None:
        """⟨λ, f_c(x; θ + μu) − f_c(x; θ)⟩ (HO-SFL, arXiv 2603.14773, step 4 of a round)."""
        if anchor.gradient is None:
            return None
        scale = self.carrier.client_scale
        scalars: list[float] = []
        for probe in range(self.algorithm.probes):
            with self.directions.moved(self.names, probe, self.algorithm.mu):
                moved = self._halted(before)
            scalars.append(inner_product(anchor.gradient, moved, anchor.smashed) / scale)
        return scalars

    def _local_losses(self, before: RandomState, anchor: Anchor) -> list[float]:
        """The auxiliary head's loss, moved and as it is (HERON-SFL, arXiv 2601.09076; one-sided, a reconstruction)."""
        assert anchor.random_state is not None
        anchor.random_state.restore()
        here = self._local_loss(anchor.smashed)
        scalars: list[float] = []
        for probe in range(self.algorithm.probes):
            with self.directions.moved(self.names, probe, self.algorithm.mu):
                scalars.append(self._local_loss(self._halted(before)) - here)
        return scalars

    def _full_losses(self, before: RandomState, names: Sequence[str], seen: float | None = None) -> list[float]:
        """Half of ℓ(θ + μu) − ℓ(θ − μu), of which the server computes both (HO-FL, appendix A.2).

        Args:
            before: The random state that every pass begins with.
            names: The parameters that are moved.
            seen: The first loss, if it is known already.
        """
        scalars: list[float] = []
        for probe in range(self.algorithm.probes):
            there = self._full_loss(before, names, probe, 1) if seen is None or probe else seen
            scalars.append((there - self._full_loss(before, names, probe, -1)) / 2)
        return scalars

    def _moved_together(self) -> tuple[Any, list[float] | None]:
        """Both sides move their weights and nobody backpropagates; the first of the passes is the one that is seen."""
        before, names = RandomState.capture(), (*self.names, *self.others)
        self.carrier.send_beside(self.batch)
        with self.directions.moved(names, 0, self.algorithm.mu), without_graph_of(self.module, self.others):
            output = self._passed()
        if not self.trains_on(output):
            return None, None
        after = RandomState.capture()
        try:
            return output, self._full_losses(before, names, seen=_number(output))
        finally:
            after.restore()

    def _full_loss(self, before: RandomState, names: Sequence[str], probe: int, sign: int) -> float:
        """The loss with weights moved, which the client's smashed data have crossed for."""
        before.restore()
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers() if name not in self.fixed}
        with (
            self.directions.moved(names, probe, sign * self.algorithm.mu),
            without_graph_of(self.module, self.others),
            silent(self.module),
        ):
            loss = _number(self._passed())
        for name, buffer in buffers.items():  # the server's running statistics are those of the batch it trains on
            self.module.get_buffer(name).data.copy_(buffer)
        return loss

    def _passed(self) -> Any:
        hook = PassHook(self.module, self.carrier.split.cut, self.carrier.split.smashed)
        with hook.forward(self.carrier), self._fixed_buffers():
            output = self.forward()
        if output is not None:
            hook.check_visits()
        return output

    def _halted(self, before: RandomState) -> tuple[Tensor, ...]:
        before.restore()  # the same dropout masks as with the weights as they are
        with silent(self.module), self._fixed_buffers():
            return halt(self.module, self.carrier.split, self.forward).smashed

    def _local_loss(self, smashed: tuple[Tensor, ...]) -> float:
        auxiliary_loss = cast(Callable[..., Tensor], self.module.auxiliary_loss)
        with torch.no_grad(), self._fixed_buffers(), self.precision.train_step_context():
            return float(auxiliary_loss(self.batch, *smashed))

    def _fixed_buffers(self) -> AbstractContextManager[None]:
        """Entered anew for every pass: all of them are to begin with the same buffers."""
        return fixed_buffers(self.module, self.fixed)


def _number(output: object) -> float:
    loss: Tensor = loss_of(output)
    return float(loss.detach())
