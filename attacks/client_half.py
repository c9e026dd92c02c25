"""The client's half of the model as an attacker runs it: its own copy, up to the cut."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sfl.cut.batch import named_tensors, record_count, replace_tensors
from lightning_sfl.cut.find import Step, training_step
from lightning_sfl.cut.modes import halt
from lightning_sfl.cut.split import Split


class ClientHalf:
    """Runs the client's half on inputs of the attacker's choice.

    It is a copy, in training mode as the victim's was, so that batch normalisation uses the statistics of the batch at
    hand. Dropout is off: its masks are the client's secret, and the mean is the attacker's best guess.

    Args:
        module: The module whose program is known; its weights are replaced by :meth:`load`.
        split: The split.
        template: A batch that shows structure, shapes and types. Its values are not used.
        step: How to run one training step.
    """

    def __init__(self, module: nn.Module, split: Split, template: Any, *, step: Step = training_step) -> None:
        self.split = split
        self._module = copy.deepcopy(module).requires_grad_(requires_grad=False).train()
        for part in self._module.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.eval()
        self._step = step
        blank = {name: torch.zeros_like(tensor) for name, tensor in named_tensors(template).items()}
        self._template = replace_tensors(template, blank)
        self._template_records = record_count(template)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights and buffers of the client's half in place, by name.

        Raises:
            ValueError: The module has no such tensor, or one of another shape.
        """
        own = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                held = f"of shape {tuple(own[name].shape)}" if name in own else "not in the module"
                raise ValueError(
                    f"The messages are those of another model: {name!r} of shape {tuple(tensor.shape)} was sent, which"
                    f" is {held}."
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def private_shapes(self, records: int) -> dict[str, tuple[int, ...]]:
        """Shape of every private input in a batch of ``records``, by name."""
        return {
            name: tuple(tensor.shape) for name, tensor in self._resized(records).items() if name in self.split.private
        }

    def private_dtypes(self) -> dict[str, torch.dtype]:
        """Type of every private input, by name."""
        return {name: t.dtype for name, t in named_tensors(self._template).items() if name in self.split.private}

    def __call__(self, private: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The smashed data of a batch, with the graph back to ``private``.

        Args:
            private: The attacker's guess of every private input, in any precision.
            known: Batch tensors that crossed (labels, masks), by name.
        """
        records = next(iter(private.values())).shape[0]
        resized = self._resized(records)
        guess = {name: tensor.to(resized[name].dtype) for name, tensor in private.items()}
        batch = replace_tensors(self._template, {**resized, **known, **guess})
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)`")
            return halt(self._module, self.split, lambda: self._step(self._module, batch)).smashed

    def _resized(self, records: int) -> dict[str, Tensor]:
        """Blank tensors of the template's shapes for another number of records."""
        return {
            name: tensor.new_zeros((records, *tensor.shape[1:]))
            if tensor.ndim and tensor.shape[0] == self._template_records
            else tensor
            for name, tensor in named_tensors(self._template).items()
        }


def carries_nothing(smashed: Sequence[Tensor]) -> bool:
    """Whether smashed data are all zero, or not all finite, so that no distance to them can be told."""
    return not all(tensor.isfinite().all() for tensor in smashed) or not any(tensor.any() for tensor in smashed)


def relative_distance(smashed: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """‖f(x) − z‖² / ‖z‖², over all crossing tensors together: the fit of a guess, free of the smashed data's scale."""
    pairs = [(_wide(ours), _wide(theirs)) for ours, theirs in zip(smashed, target, strict=True)]
    distance = torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum()
    scale = torch.stack([theirs.square().sum() for _, theirs in pairs]).sum()
    return distance / scale


def _wide(tensor: Tensor) -> Tensor:
    """In at least 32 bits: sums of squares overflow or stall in 16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
