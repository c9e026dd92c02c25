"""Modules replaced by the shape of their output.

A stubbed module is called with whatever the program hands it and returns zeros of the shape, type and place its real
forward would have given for these very arguments. The shape comes from running the forward on fake tensors, which
hold no values: no weight is read and nothing is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_map_only


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let ``module`` run ``forward`` in place of its own while the context is entered; hooks on it still run."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def stubbed(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Stub the submodules called ``names`` while the context is entered."""
    with ExitStack() as stack:
        for name in names:
            submodule = module.get_submodule(name)
            stack.enter_context(replaced_forward(submodule, _Stub(submodule).shape_only))
        yield


class _Stub(nn.Module):
    """The forward of a stubbed module. It is a module itself so that the real one's weights can be called faked."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._forward = module.forward

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._forward(*args, **kwargs)

    def shape_only(self, *args: object, **kwargs: object) -> object:
        mode = FakeTensorMode(allow_non_fake_inputs=True)

        def fake(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor.detach(), static_shapes=True)

        state = {name: fake(tensor) for name, tensor in [*self.named_parameters(), *self.named_buffers()]}
        fake_args, fake_kwargs = tree_map_only(Tensor, fake, args), tree_map_only(Tensor, fake, kwargs)
        with mode, torch.no_grad():
            output = functional_call(self, state, fake_args, fake_kwargs)
        return tree_map_only(FakeTensor, _zeros, output)


def _zeros(tensor: FakeTensor) -> Tensor:
    return torch.zeros(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)
