"""Running a client's half without a backward pass, again and again with the same random draws."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_sfl.cut.split import Split
from lightning_sfl.random_state import RandomState


@contextmanager
def without_graph_of(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Have no graph recorded for parameters, so that no activation is kept for a backward pass of theirs.

    Gradients stay enabled, since a cut module is one visited with gradients enabled.
    """
    trained = [own for own in map(module.get_parameter, names) if own.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def fixed_buffers(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Have a client's buffers stay as they are, and normalisation with running statistics go by those that there are.

    Statistics of a batch would be others in every probe, and running ones would have to be averaged over clients (the
    authors' code has its clients in evaluation mode too).
    """
    held = {name: (buffer := module.get_buffer(name), buffer.data) for name in names}
    owners = {name.rpartition(".")[0] for name in names}
    norms = [own for own in map(module.get_submodule, owners) if isinstance(own, _NormBase) and own.training]
    for norm in norms:
        norm.training = False
    for buffer, data in held.values():
        buffer.data = data.clone()
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True
        for name, (buffer, data) in held.items():
            owner, _, key = name.rpartition(".")
            module.get_submodule(owner)._buffers[key] = buffer  # the step may have assigned a new tensor
            buffer.data = data


class Anchor:
    """What a client keeps of the pass with its weights as they are.

    Attributes:
        smashed: The crossing tensors, without a graph.
        random_state: The random state at the cut.
    """

    def __init__(self) -> None:
        self.smashed: tuple[Tensor, ...] = ()
        self.random_state: RandomState | None = None
        self._leaves: tuple[Tensor, ...] = ()

    @property
    def gradient(self) -> tuple[Tensor | None, ...] | None:
        """What came back over the link after the server's backward pass; None if nothing did."""
        gradients = tuple(leaf.grad for leaf in self._leaves)
        return None if all(gradient is None for gradient in gradients) else gradients

    @contextmanager
    def at(self, module: nn.Module, split: Split) -> Iterator[None]:
        """Keep them in a forward pass; the server goes on with copies, of which it returns the gradient."""

        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            if not torch.is_grad_enabled() or self._leaves:
                return output
            leaves, spec = tree_flatten(output)
            self.smashed = tuple(leaves[place].detach() for place in split.smashed)
            self._leaves = tuple(tensor.clone() for tensor in self.smashed)
            for place, leaf in zip(split.smashed, self._leaves, strict=True):
                leaves[place] = leaf.requires_grad_(leaf.is_floating_point() or leaf.is_complex())
            self.random_state = RandomState.capture()
            return tree_unflatten(leaves, spec)

        handle = module.get_submodule(split.cut).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def inner_product(gradient: Sequence[Tensor | None], moved: Sequence[Tensor], anchor: Sequence[Tensor]) -> float:
    """⟨λ, z̃ − z⟩ over batch and features, in single precision at least: half precision would lose z̃ − z."""
    total = 0.0
    for lam, there, here in zip(gradient, moved, anchor, strict=True):
        if lam is not None:
            wide = torch.promote_types(there.dtype, torch.float32)
            total += float(torch.sub(there.to(wide), here.to(wide)).mul_(lam).sum())
    return total
