"""The server's gradients, between the clients' backward passes and the server's step."""

from torch import Tensor, nn


class ServerGradients:
    """They are made in the training step, client by client, before Lightning zeroes gradients.

    References are kept across that; there is no second buffer.

    Args:
        module: The module; what has a gradient outside a client's turn is the server's.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def clear(self) -> None:
        """Let go of the last step's gradients, which Lightning would zero only after this step's were made."""
        for parameter in self._module.parameters():
            parameter.grad = None

    def any(self) -> bool:
        """Whether the server has gradients at all; it has none where clients have replicas of their own."""
        return any(parameter.grad is not None for parameter in self._module.parameters())

    def hold(self, present: float = 1.0) -> None:
        """Take them aside. They are sums over clients whose weights add up to ``present``; the rest is made up for."""
        self._held = [(p, p.grad) for p in self._module.parameters() if p.grad is not None]
        for parameter, gradient in self._held:
            parameter.grad = None
            if present < 1 - 1e-6:
                gradient.div_(present)

    def put(self) -> None:
        """Put them in place for the optimizer."""
        for parameter, gradient in self._held:
            parameter.grad = gradient
        self._held = []
