"""The first real step of a run is watched, to learn whose is what at the cut. It runs exactly once."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_sfl.cut.batch import copied_batch, named_tensors
from lightning_sfl.cut.carrier import LinkCarrier, ReturnCarrier
from lightning_sfl.cut.dataflow import OutputForm
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.find import (
    Search,
    check_server_inputs,
    default_cut,
    loss_of,
    search,
    training_step,
    valid_cuts_text,
)
from lightning_sfl.cut.modes import Carrier, PassHook
from lightning_sfl.cut.split import Split, split_at
from lightning_sfl.cut.verify import autograd_disagreement
from lightning_sfl.cut.watch import Watch, watch_modules
from lightning_sfl.strategy.cuts import Cuts


class SkippedStep(CutError):
    """`training_step` returned None on a copy, which skips the step and tells nothing."""

    def __init__(self) -> None:
        super().__init__("training_step returned None, which skips the step: nothing shows of what the cuts need.")


class DeferredCarrier:
    """Carries the tensors of the watched step: they cross once it is known which of them do."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, ...] = ()
        self._places: tuple[int, ...] = ()
        self._carrier: Carrier | None = None

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hold copies, since the step may go on to write in place, and let the tensors themselves pass."""
        self._held = tuple(tensor.detach().clone() for tensor in tensors)
        return tensors

    def cross(self, carrier: Carrier, form: OutputForm, crossing: Sequence[int]) -> None:
        """Send those of the held tensors that the other side reads."""
        tensors = sorted(form.tensors)
        self._carrier, self._places = carrier, tuple(tensors.index(place) for place in crossing)
        carrier.carry(tuple(self._held[place] for place in self._places))
        self._held = ()

    def carry_back(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Send the gradients; those of what did not cross are the holder's own."""
        assert self._carrier is not None
        received = self._carrier.carry_back(tuple(gradients[place] for place in self._places))
        by_place = dict(zip(self._places, received, strict=True))
        return tuple(by_place.get(place, gradient) for place, gradient in enumerate(gradients))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchedStep:
    """What the watched step gave.

    Attributes:
        output: What `training_step` returned.
        cut: The cut of the client whose step it was.
        splits: Whose is what at every cut in use.
        carrier: Holds the smashed data until they may cross.
        back: Holds the server's output of a U-shape until it may cross.
        batch: The batch as it was before the step.
        buffers_before: The module's buffers as they were before the step.
    """

    output: Any
    cut: str
    splits: dict[str, Split]
    carrier: DeferredCarrier
    back: DeferredCarrier
    batch: Any
    buffers_before: dict[str, Tensor]

    @property
    def split(self) -> Split:
        """Whose is what at the client's own cut."""
        return self.splits[self.cut]

    def cross(self, carrier: LinkCarrier) -> None:
        """Let cross what was held back."""
        carrier.send_beside(self.batch)
        self.carrier.cross(carrier, self.split.form, self.split.smashed)
        if self.split.back is not None:
            self.back.cross(ReturnCarrier(carrier), self.split.back.form, self.split.back.outputs)


def pass_through(module: pl.LightningModule, carrier: LinkCarrier, batch: object, forward: Callable[[], Any]) -> Any:
    """Run a forward pass whose split is known; returns what the step returned."""
    split = carrier.split
    carrier.send_beside(batch)
    crossings: list[tuple[PassHook, Carrier]] = [(PassHook(module, split.cut, split.smashed), carrier)]
    if split.back is not None:
        crossings.append((PassHook(module, split.back.cut, split.back.outputs), ReturnCarrier(carrier)))
    with ExitStack() as stack:
        for hook, across in crossings:
            stack.enter_context(hook.forward(across))
        output = forward()
    if output is not None:  # a step that is skipped may be skipped before the cut
        for hook, _ in crossings:
            hook.check_visits()
    return output


def watched_step(
    module: pl.LightningModule,
    cut: str,
    cuts: Cuts,
    batch: object,
    server_inputs: tuple[str, ...],
    step: Callable[[], Any],
) -> WatchedStep | None:
    """Run ``step`` once, watched.

    Args:
        module: The module.
        cut: The cut of the client whose step it is.
        cuts: Where every client cuts.
        batch: The batch that ``step`` trains on.
        server_inputs: Model inputs that may cross.
        step: Runs `training_step` in the trainer's precision.

    Returns:
        What it gave, or None if `training_step` returned None, which skips the step and tells nothing.

    Raises:
        CutError: The cut is not valid; the module's buffers are put back and the message lists the valid cuts.
    """
    check_server_inputs(batch, server_inputs)
    before = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    kept = copied_batch(batch)  # the step may change the batch
    carrier, back = DeferredCarrier(), DeferredCarrier()
    watch = Watch(module, batch)
    names = [name for name, _ in module.named_modules() if name]
    try:
        with ExitStack() as stack:
            stack.enter_context(PassHook(module, cut, None).forward(carrier))
            if cuts.last is not None:
                stack.enter_context(PassHook(module, cuts.last, None).forward(back))
            stack.enter_context(watch_modules(watch, module, names, fresh=False))
            stack.enter_context(watch)
            output = step()
        if output is None:
            return None
        loss = loss_of(output)
        watch.mark_ends(loss, module)
        splits: dict[str, Split] = {}
        for name in cuts.names:
            splits[name] = split_at(watch.flow, name, module, named_tensors(kept), server_inputs, cuts.last)
            if wrong := autograd_disagreement(module, splits[name], loss, watch.flow.gates):
                raise CutError(f"cut={name!r}: this cut could not be verified; {wrong}.")
    except CutError as error:
        for name, buffer in module.named_buffers():
            buffer.data = before[name]
        try:
            valid = probe(module, kept, server_inputs, cuts.last).cuts()
        except CutError as none:
            raise CutError(f"{error} {none}") from None
        raise CutError(f"{error} {valid_cuts_text(valid, cuts.last)}") from None
    return WatchedStep(
        output=output, cut=cut, splits=splits, carrier=carrier, back=back, batch=kept, buffers_before=before
    )


def choose_cut(module: pl.LightningModule, batch: object, server_inputs: tuple[str, ...]) -> str:
    """The default cut, found on a copy of the module."""
    return default_cut(probe(module, batch, server_inputs).cuts()).name


def probe(module: pl.LightningModule, batch: object, server_inputs: tuple[str, ...], last: str | None = None) -> Search:
    """Watch one step on a copy that knows the trainer and whose logging goes nowhere.

    Raises:
        SkippedStep: It skipped the step.
    """
    trainer = module.trainer

    def step(copied: nn.Module, batch: object) -> object:
        assert isinstance(copied, pl.LightningModule)
        copied._trainer = trainer
        copied.log = copied.log_dict = _log_nowhere  # type: ignore[method-assign]
        output = training_step(copied, batch, trainer.fit_loop.batch_idx)
        if output is None:
            raise SkippedStep
        return output

    return search(module, batch, server_inputs=server_inputs, step=step, last=last)


def _log_nowhere(*_args: object, **_kwargs: object) -> None:
    """In place of `self.log` on a copy that is thrown away."""
