"""Where an algorithm keeps which part of the module."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import ClassVar, Protocol

from torch import nn

from lightning_sfl.cut.split import Split
from lightning_sfl.schedule import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owned:
    """Names of parameters and buffers that one party owns."""

    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters, then buffers."""
        return (*self.parameters, *self.buffers)

    def keeping(self, earlier: "Owned") -> "Owned":
        """What is owned now, and what was owned earlier."""
        return Owned(
            parameters=tuple(dict.fromkeys((*self.parameters, *earlier.parameters))),
            buffers=tuple(dict.fromkeys((*self.buffers, *earlier.buffers))),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Who owns what under an algorithm. What stands nowhere here is the server's one common copy.

    Attributes:
        client: Each client's own part, computed by the client.
        replica: Each client's own part of the server's layers, computed on the server.
        has_common: Whether the server steps one copy for all, on the weighted mean of the participants' losses.
    """

    client: Owned
    replica: Owned
    has_common: bool

    def keeping(self, earlier: "Placement") -> "Placement":
        """This placement, in which nobody loses what they owned earlier."""
        client, replica = self.client.keeping(earlier.client), self.replica.keeping(earlier.replica)
        return dataclasses.replace(self, client=client, replica=replica)


class Algorithm(Protocol):
    """A split federated learning algorithm."""

    name: ClassVar[str]
    uses_cut: ClassVar[bool]
    schedule: ClassVar[type[Schedule]]

    def place(self, module: nn.Module, split: Split | None) -> Placement:
        """Say who owns what.

        Args:
            module: The module.
            split: The split in force; None for an algorithm without a cut.
        """
        ...


def everything(module: nn.Module) -> Owned:
    """All trainable parameters and all buffers of a module."""
    return _owned(module, [name for name, _ in module.named_parameters()], [name for name, _ in module.named_buffers()])


def client_side(module: nn.Module, split: Split) -> Owned:
    """The trainable parameters and the buffers before the cut."""
    return _owned(module, split.client_parameters, split.client_buffers)


def server_side(module: nn.Module, split: Split) -> Owned:
    """The trainable parameters and the buffers after the cut, but for constants that clients hold too."""
    clients = set(split.client_buffers)
    return _owned(module, split.server_parameters, [name for name in split.server_buffers if name not in clients])


def owned_among(module: nn.Module, names: Collection[str]) -> Owned:
    """The parameters, frozen ones too, and the buffers of a module that are among these names."""
    return Owned(
        parameters=tuple(name for name, _ in module.named_parameters() if name in names),
        buffers=tuple(name for name, _ in module.named_buffers() if name in names),
    )


def _owned(module: nn.Module, parameters: Sequence[str], buffers: Sequence[str]) -> Owned:
    return Owned(
        parameters=tuple(name for name in parameters if module.get_parameter(name).requires_grad),
        buffers=tuple(name for name in buffers if _is_persistent(module, name)),
    )


def _is_persistent(module: nn.Module, name: str) -> bool:
    """Whether a buffer is in the state dict. Others are constants (masks, frequencies) that everybody can compute."""
    owner, _, key = name.rpartition(".")
    return key not in module.get_submodule(owner)._non_persistent_buffers_set
