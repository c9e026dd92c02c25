"""The server's gradients, between the clients' backward passes and the server's step."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ServerGradients:
    """They are made in the training step, client by client, before Lightning zeroes gradients.

    References are kept across that. There is a second buffer only where gradients are accumulated over batches: what a
    batch adds is known when its last client has run, since it is normalised by the weights of those present.

    Args:
        module: The module; what has a gradient outside a client's turn is the server's.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = list(module.parameters())
        self._held: dict[nn.Parameter, Tensor] = {}
        self._earlier: dict[nn.Parameter, Tensor] = {}
        self._is_open = False

    def begin(self, *, afresh: bool) -> None:
        """Begin a batch.

        Args:
            afresh: Let go of the last step's gradients, which Lightning would zero only after this batch's were made.
                Else this batch's are added to those of the batches before.
        """
        self._is_open = True
        gradients = self._taken()
        self._earlier = {} if afresh else gradients

    def end(self, factor: float = 1.0) -> None:
        """End a batch: hold what all batches have added up to.

        Args:
            factor: What the batch's gradients, sums over its clients, are multiplied by for their weighted mean.
        """
        self._held, self._earlier = self._earlier, {}
        for parameter, gradient in self._taken().items():
            if factor != 1:
                gradient.mul_(factor)
            self._held[parameter] = self._held[parameter].add_(gradient) if parameter in self._held else gradient

    def is_finite(self) -> bool:
        """Whether what was added up so far is made of numbers."""
        largest = torch._foreach_norm(list(self._held.values()), math.inf) if self._held else []
        return all(math.isfinite(each) for each in largest)

    def drop(self) -> None:
        """Let go of what was added up so far."""
        self._held = {}

    def close(self) -> None:
        """The step was made; what gradients there still are belong to nothing."""
        self._is_open = False

    def any(self) -> bool:
        """Whether the server has gradients at all; it has none where clients have replicas of their own."""
        return any(parameter.grad is not None for parameter in self._parameters)

    def hold(self) -> None:
        """Take them aside."""
        self._held = self._taken()

    def put(self) -> None:
        """Put them in place for the optimizer."""
        for parameter, gradient in self._held.items():
            parameter.grad = gradient
        self._held = {}

    def state_dict(self) -> dict[str, Tensor]:
        """The gradients of the batches at hand, of which no step was made yet, by the parameter's name; not copies."""
        if not self._is_open:
            return {}
        return {name: p.grad for name, p in self._module.named_parameters() if p.grad is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put saved gradients in place."""
        for name, gradient in state.items():
            parameter = self._module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)

    def _taken(self) -> dict[nn.Parameter, Tensor]:
        """The gradients that were in place and are not any more."""
        taken = {p: p.grad for p in self._parameters if p.grad is not None}
        for parameter in taken:
            parameter.grad = None
        return taken
