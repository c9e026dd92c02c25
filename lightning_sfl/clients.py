"""What a party that takes part in a round owns: its weights, buffers and optimizer state, kept beside the module.

There is one module tree. A party's own tensors stand under the module's names, and are put in place of the module's
own for the time of the party's forward and backward pass.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sfl.optimizers import State, clone_state, copy_optimizer, follow_groups


class Shard:
    """One party's own part of the module.

    Args:
        module: The module; its own tensors are the global ones.
        parameters: Names of the trainable parameters the party owns.
        buffers: Names of the buffers the party owns.
        optimizer: The user's optimizer, of which the party has a copy.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[str], buffers: Sequence[str], optimizer: Optimizer
    ) -> None:
        self._module = module
        self._user_optimizer = optimizer
        shared = {name: module.get_parameter(name) for name in parameters}
        self.parameters = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in shared.items()}
        self.buffers = {name: module.get_buffer(name).detach().clone() for name in buffers}
        self._pairs = [(tensor, self.parameters[name]) for name, tensor in shared.items()]
        self._own: dict[Tensor, nn.Parameter] = dict(self._pairs)
        self.optimizer = copy_optimizer(optimizer, self._own)

    def load(self, tensors: Mapping[str, Tensor], optimizer_state: Mapping[str, State]) -> None:
        """Take over weights and buffers by name, and optimizer state by parameter name."""
        with torch.no_grad():
            for name, own in [*self.parameters.items(), *self.buffers.items()]:
                own.copy_(tensors[name])
        for name, parameter in self.parameters.items():
            parameter.grad = None
            if self.optimizer is not None:
                state = optimizer_state.get(name)
                if state:
                    self.optimizer.state[parameter] = clone_state(state)
                else:
                    self.optimizer.state.pop(parameter, None)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, as they are; not copies."""
        return {name: own.detach() for name, own in [*self.parameters.items(), *self.buffers.items()]}

    def optimizer_state(self) -> dict[str, State]:
        """Optimizer state by parameter name, as it is; not copies."""
        if self.optimizer is None:
            return {}
        state = self.optimizer.state
        return {name: state[parameter] for name, parameter in self.parameters.items() if state.get(parameter)}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the party's tensors in the module's place; gradients made meanwhile are the party's.

        Gradients that the party has already are added to. The global tensors come back in any case.
        """
        shared = [(tensor, tensor.data) for tensor, _ in self._pairs]
        held = {name: (tensor := self._module.get_buffer(name), tensor.data) for name in self.buffers}
        for tensor, own in self._pairs:
            tensor.data = own.data
            tensor.grad = own.grad
        for name, (tensor, _) in held.items():
            tensor.data = self.buffers[name]
        try:
            yield
        finally:
            for (tensor, own), (_, data) in zip(self._pairs, shared, strict=True):
                own.data = tensor.data  # the step may have assigned new data
                own.grad, tensor.grad = tensor.grad, None
                tensor.data = data
            for name, (tensor, data) in held.items():
                owner, _, key = name.rpartition(".")
                buffers = self._module.get_submodule(owner)._buffers
                written = buffers[key]
                assert written is not None
                self.buffers[name] = written.data  # the step may have assigned a new tensor
                buffers[key] = tensor
                tensor.data = data

    def has_gradients(self) -> bool:
        """Whether a backward pass has reached the party since it last stepped."""
        return any(parameter.grad is not None for parameter in self.parameters.values())

    def gradients(self) -> dict[str, Tensor]:
        """The party's gradients by name, as they are; not copies."""
        return {name: own.grad for name, own in self.parameters.items() if own.grad is not None}

    def put_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Put gradients of these names in place."""
        for name, gradient in gradients.items():
            if name in self.parameters:
                self.parameters[name].grad = gradient.to(self.parameters[name].device)

    def drop_gradients(self) -> None:
        """Let go of the party's gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self) -> None:
        """Step the party's optimizer on its gradients, and let go of them."""
        if self.optimizer is not None:
            follow_groups(self._user_optimizer, self.optimizer, self._own)
            self.optimizer.step()
        self.drop_gradients()


class AlikeShard(Shard):
    """What all clients have alike at any time, stepped once for all of them.

    Its weights are the module's own tensors and its optimizer state is the user's optimizer's; its gradients are apart.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[str], buffers: Sequence[str], optimizer: Optimizer
    ) -> None:
        super().__init__(module, parameters, buffers, optimizer)
        self._follow_module()

    def add_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Add to the gradients by name."""
        for name, gradient in gradients.items():
            own = self.parameters[name]
            own.grad = gradient if own.grad is None else own.grad + gradient

    def step(self) -> None:
        """See :meth:`Shard.step`."""
        self._follow_module()
        if self.optimizer is not None:
            for tensor, own in self._pairs:
                if tensor in self._user_optimizer.state:
                    self.optimizer.state[own] = self._user_optimizer.state[tensor]
        super().step()
        for tensor, own in self._pairs:
            tensor.data = own.data  # the step may have assigned new data
            if self.optimizer is not None and own in self.optimizer.state:
                self._user_optimizer.state[tensor] = self.optimizer.state[own]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """See :meth:`Shard.installed`."""
        self._follow_module()
        with super().installed():
            yield
        for tensor, own in self._pairs:
            tensor.data = own.data

    def _follow_module(self) -> None:
        for tensor, own in self._pairs:
            own.data = tensor.data


@dataclasses.dataclass
class Participant:
    """A client that takes part in a round.

    Attributes:
        client: Which client.
        shard: The client's own part.
        replica: The server layers that are this client's own, computed on the server.
        samples: Samples processed since the last aggregation.
        lost: Whether it was lost in the round at hand, and counts no more.
    """

    client: int
    shard: Shard
    replica: Shard
    samples: int = 0
    lost: bool = False

    @property
    def parties(self) -> tuple[Shard, Shard]:
        """Its parts by the party that steps them: the client, and the server on its behalf."""
        return (self.shard, self.replica)

    @contextmanager
    def installed(self, weight: float = 1.0) -> Iterator[None]:
        """Put everything it owns in the module's place; gradients made meanwhile are added to its own.

        Args:
            weight: What the loss is multiplied by before backward. It is taken out of the gradients of what the server
                computes of the client's own, which are those of the client's own mean loss. The client's half gets its
                gradient over the link, which takes the weight out.
        """
        earlier = self.replica.gradients() if weight != 1 else {}
        if earlier:
            self.replica.drop_gradients()
        with self.shard.installed(), self.replica.installed():
            yield
        if weight == 1:
            return
        for gradient in self.replica.gradients().values():
            gradient.div_(weight)
        made = self.replica.gradients()
        self.replica.put_gradients({n: g.add_(made[n]) if n in made else g for n, g in earlier.items()})

    def is_finite(self) -> bool:
        """Whether all its weights, buffers and optimizer state are numbers."""
        values: list[object] = [tensor for party in self.parties for tensor in party.tensors().values()]
        for party in self.parties:
            values += [value for state in party.optimizer_state().values() for value in state.values()]
        tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def drop_gradients(self) -> None:
        """Let go of all its parties' gradients."""
        for party in self.parties:
            party.drop_gradients()
