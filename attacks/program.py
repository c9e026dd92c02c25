"""The model's program as an attacker runs it: its own copy, with weights of its choice, up to the cut or whole."""

import hashlib
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.smashed.networks import drawn_weights
from lightning_sfl.cut.batch import named_tensors, record_count, replace_tensors
from lightning_sfl.cut.find import Step, copied_module, loss_of, training_step
from lightning_sfl.cut.modes import PassHook, halt, inject, run_around
from lightning_sfl.cut.split import Split
from lightning_sfl.random_state import RandomState

Weights = Mapping[str, Tensor]
"""Parameters and buffers, by name. What is missing keeps the value that the program was made with."""


class Program:
    """Runs the model on inputs and with weights of the attacker's choice, differentiable in both.

    It is a copy, in the modes that the victim's modules had: in training mode batch normalisation uses the statistics
    of the batch at hand, in evaluation mode those that the weights bring along. Dropout is off: its masks are the
    client's secret, and the mean is the attacker's best guess. Trainable weights and running statistics are blanked, so
    that nobody knows them who was not given them; frozen weights are the program's.

    Args:
        module: The module whose program is known. Its weights are not kept.
        split: The split; None where clients hold the whole model.
        template: A batch that shows structure, shapes and types. Its values are not used.
        step: How to run one training step.
        fixed_norms: Whether the client's batch normalisation goes by its running statistics, as it does where clients
            run forward only.
        evaluating: Names of the modules that compute in evaluation mode, as their owner set them.

    Attributes:
        dropout: The dropout that the victim has at work, by name; here it is off.
        trained: Names of the parameters that the victim trains.
    """

    def __init__(
        self,
        module: nn.Module,
        split: Split | None,
        template: Any,
        *,
        step: Step = training_step,
        fixed_norms: bool = False,
        evaluating: Collection[str] = (),
    ) -> None:
        self.split = split
        self._module = copied_module(module).requires_grad_(requires_grad=False).train()
        held = set() if split is None or not fixed_norms else set(split.client_buffers)
        self.dropout: dict[str, float] = {}
        for name, part in self._module.named_modules():
            part.training = part.training and name not in evaluating
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.training:
                part.eval()
                self.dropout |= {name: part.p} if part.p > 0 else {}
            if isinstance(part, nn.modules.batchnorm._NormBase):
                part.reset_running_stats()
                part.training = part.training and f"{name}.running_mean" not in held
        self.trained = frozenset(name for name, own in module.named_parameters() if own.requires_grad)
        with torch.no_grad():
            for name, parameter in self._module.named_parameters():
                if name in self.trained:
                    parameter.zero_()
        # What every run would look up again; the copy's layers stay as they are.
        self._dtypes = {name: tensor.dtype for name, tensor in self._own().items()}
        every_name = list(self._module.named_parameters(remove_duplicate=False))
        self._has_ties = len(every_name) > len(list(self._module.named_parameters()))
        self._step = step
        blank = {name: torch.zeros_like(tensor) for name, tensor in named_tensors(template).items()}
        self._template = replace_tensors(template, blank)
        self._template_records = record_count(template)

    @property
    def module(self) -> nn.Module:
        """The attacker's copy, to look at its layers; to be run through this class alone."""
        return self._module

    @property
    def private(self) -> tuple[str, ...]:
        """Names of the batch tensors that are to stay with the client."""
        if self.split is not None:
            # A client that computes the loss keeps its labels too; what it sends at the first cut was made without.
            late = set() if self.split.back is None else set(self._class_inputs())
            return tuple(name for name in self.split.private if name not in late)
        floating = [name for name, tensor in named_tensors(self._template).items() if tensor.is_floating_point()]
        return tuple(floating)

    def check(self, weights: Weights) -> None:
        """Raise a ValueError unless these weights are this model's: names, and shapes."""
        own = self._own()
        for name, tensor in weights.items():
            if name not in own or own[name].shape != tensor.shape:
                held = f"of shape {tuple(own[name].shape)}" if name in own else "not in the module"
                raise ValueError(
                    f"The messages are those of another model: {name!r} of shape {tuple(tensor.shape)} was sent, which"
                    f" is {held}."
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"The victim's weights are not all finite: {name!r} holds NaN or infinite values.")

    def trainable(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of these names are parameters, in their order."""
        parameters = {name for name, _ in self._module.named_parameters()}
        return tuple(name for name in names if name in parameters)

    def image_input(self, records: int) -> tuple[str, tuple[int, int, int, int], torch.dtype]:
        """Name, shape for so many records and type of the one private input.

        Raises:
            ValueError: The private input is not one floating tensor of images.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self._resized(records).items() if name in self.private}
        dtypes = {name: tensor.dtype for name, tensor in named_tensors(self._template).items() if name in shapes}
        images = [name for name, shape in shapes.items() if len(shape) == 4 and dtypes[name].is_floating_point]
        if len(shapes) != 1 or len(images) != 1:
            found = ", ".join(f"{name!r} {shape} {dtypes[name]}" for name, shape in shapes.items()) or "none"
            raise ValueError(
                "Attacks rebuild one private input of floating images, shape (records, channels, height, width); the"
                f" private inputs of this cut are {found}."
            )
        (name,) = images
        batch, channels, height, width = shapes[name]
        return name, (batch, channels, height, width), dtypes[name]

    def label_input(self) -> str:
        """Name of the one batch tensor that can be a class per record.

        Raises:
            ValueError: There is none, or there are several.
        """
        found = self._class_inputs()
        if len(found) != 1:
            raise ValueError(
                "Attacks on the loss need one batch tensor of classes, shape (records,) of int64; this batch has"
                f" {', '.join(map(repr, found)) or 'none'}."
            )
        return found[0]

    def smashed(
        self, weights: Weights, private: Mapping[str, Tensor], known: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """The crossing tensors of a batch.

        Args:
            weights: Weights to run with.
            private: Every private input, in any precision.
            known: Batch tensors that crossed beside them (labels, masks), by name.
        """
        split = self.split
        assert split is not None
        batch = self._batch(private, known)
        sent: tuple[Tensor, ...] = self._run(
            weights, lambda: halt(self._module, split, lambda: self._step(self._module, batch)).smashed
        )
        return sent

    def loss(self, weights: Weights, private: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Tensor:
        """The whole training step's loss."""
        batch = self._batch(private, known)
        loss: Tensor = self._run(weights, lambda: loss_of(self._step(self._module, batch)))
        return loss

    def server_loss(self, weights: Weights, smashed: Sequence[Tensor], known: Mapping[str, Tensor]) -> Tensor:
        """The loss that the server's half makes of smashed data; its gradient reaches these, and nothing beyond.

        Args:
            weights: Weights of the server's half.
            smashed: The crossing tensors.
            known: Batch tensors that crossed beside them, by name.
        """
        split = self.split
        assert split is not None
        batch = replace_tensors(self._template, {**self._resized(len(smashed[0])), **known})

        def forward() -> tuple[Tensor, tuple[Tensor, ...]]:
            injected = inject(self._module, split, lambda filled: self._step(self._module, filled), batch, smashed)
            return loss_of(injected.output), injected.received

        loss, received = self._run(weights, forward)
        value: Tensor = loss.detach()
        gradients = torch.autograd.grad(loss, received, allow_unused=True)
        # What is injected is a leaf of its own; its gradient is handed on to what was given.
        for given, gradient in zip(smashed, gradients, strict=True):
            if gradient is not None:
                value = value + ((given - given.detach()) * gradient).sum()
        return value

    def output_gradients(
        self, weights: Weights, outputs: Sequence[Tensor], known: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, ...]:
        """In a U-shape, the gradient that a client sends back for what the server gave it.

        The client's first part runs on blank inputs, so connections that lead past the server are those of a blank.

        Args:
            weights: Weights of the client's half.
            outputs: What the server gave.
            known: Batch tensors that the client's second part reads (labels), by name.
        """
        split = self.split
        assert split is not None
        batch = self._differentiable(len(outputs[0]), known)
        server = _Answers(outputs)

        def forward() -> None:
            loss_of(run_around(self._module, split, lambda: self._step(self._module, batch), server)).backward()

        self._run(weights, forward)
        return server.gradients

    def before_the_cut(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of these parameters act through the first cut alone: all of a client's half, but for a U-shape's end.

        Told by autograd: the smashed data depend on them, and the loss does not where nothing comes back through the
        second cut.
        """
        split = self.split
        if split is None or split.back is None:
            return tuple(names)
        back = split.back
        held = {name: self._module.get_parameter(name).detach().clone().requires_grad_() for name in names}
        batch = self._differentiable(self._template_records, {})

        def near() -> tuple[Tensor, ...]:
            return halt(self._module, split, lambda: self._step(self._module, batch)).smashed

        def far() -> tuple[Tensor, ...]:
            with PassHook(self._module, back.cut, back.outputs).forward(_NothingBack()):
                return (loss_of(self._step(self._module, batch)),)

        sent, ends = (
            torch.autograd.grad([out.sum() for out in self._run(held, run)], list(held.values()), allow_unused=True)
            for run in (near, far)
        )
        return tuple(n for n, one, other in zip(names, sent, ends, strict=True) if one is not None and other is None)

    def drawn_weights(self, seed: int) -> dict[str, Tensor]:
        """Weights of the client's half as somebody draws them who knows the program alone."""
        split = self.split
        assert split is not None
        held = self.trainable(split.client_parameters)
        drawn = drawn_weights(self._module, seed)
        return {name: drawn[name] for name in held}

    def fingerprint(self) -> str:
        """SHA-256 of what it computes: its layers, their modes and frozen values, and what it makes of drawn numbers.

        Two programs of one model, kept anywhere, have the same on the same machine.
        """
        found = hashlib.sha256(repr(self._module).encode())
        modes = {name: part.training for name, part in self._module.named_modules()}
        found.update(f"{modes} {self.split}".encode())
        for name, tensor in (*self._own().items(), *self._probe().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def called(self) -> tuple[str, ...]:
        """Names of the modules that clients run, in the order in which they do."""
        names: dict[str, None] = {}
        hooks = [
            part.register_forward_pre_hook(lambda module, inputs, name=name: names.setdefault(name))
            for name, part in self._module.named_modules()
        ]
        try:
            self._probe()
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(names)

    def _probe(self) -> dict[str, Tensor]:
        """What crosses, or the loss, with drawn weights and inputs."""
        draw = torch.Generator().manual_seed(0)
        inputs = {
            name: torch.rand(tensor.shape, generator=draw).to(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in self._resized(self._template_records).items()
            if name in self.private
        }
        weights = drawn_weights(self._module, 0)
        before = RandomState.capture()
        try:
            torch.manual_seed(0)  # what a step draws is the same, too
            if self.split is None:
                return {"loss": self.loss(weights, inputs, {})}
            return {f"smashed {place}": sent for place, sent in enumerate(self.smashed(weights, inputs, {}))}
        finally:
            before.restore()

    def _class_inputs(self) -> list[str]:
        tensors = named_tensors(self._template).items()
        return [name for name, tensor in tensors if tensor.dtype == torch.int64 and tensor.ndim == 1]

    def _own(self) -> dict[str, Tensor]:
        return {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}

    def _run(self, weights: Weights, forward: Callable[[], Any]) -> Any:
        used = {name: tensor.to(self._dtypes[name]) for name, tensor in weights.items() if name in self._dtypes}
        # Batch normalisation writes its running statistics in place: into copies.
        used |= {name: used.get(name, buffer).clone() for name, buffer in self._module.named_buffers()}
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)`")
            calls, given = _Calls(self._module, forward), {f"module.{name}": used[name] for name in used}
            return functional_call(calls, given, tie_weights=self._has_ties)

    def _batch(self, private: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Any:
        records = next(iter(private.values())).shape[0]
        resized = self._resized(records)
        guess = {name: tensor.to(resized[name].dtype) for name, tensor in private.items()}
        return replace_tensors(self._template, {**resized, **known, **guess})

    def _differentiable(self, records: int, known: Mapping[str, Tensor]) -> Any:
        """A blank batch in which a gradient reaches the floating inputs."""
        blank = {
            name: tensor.requires_grad_() if tensor.is_floating_point() else tensor
            for name, tensor in self._resized(records).items()
        }
        return replace_tensors(self._template, {**blank, **known})

    def _resized(self, records: int) -> dict[str, Tensor]:
        """Blank tensors of the template's shapes for another number of records."""
        return {
            name: tensor.new_zeros((records, *tensor.shape[1:]))
            if tensor.ndim and tensor.shape[0] == self._template_records
            else tensor
            for name, tensor in named_tensors(self._template).items()
        }


class _Answers:
    """A server that gives what it gave, and keeps the gradient that comes back."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self._outputs = tuple(outputs)
        self.gradients: tuple[Tensor | None, ...] = (None,) * len(self._outputs)
        self._sent = 0

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._sent = len(tensors)
        return self._outputs

    def carry_back(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        self.gradients = gradients
        return (None,) * self._sent


class _NothingBack:
    """Lets everything through, and no gradient back."""

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tensors

    def carry_back(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return (None,) * len(gradients)


class _Calls(nn.Module):
    """Makes a module's weights replaceable for a call that is not its forward."""

    def __init__(self, module: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self) -> Any:
        return self._call()
