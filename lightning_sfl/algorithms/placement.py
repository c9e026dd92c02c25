"""Where an algorithm keeps which part of the module."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

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
        alike: What every client holds and all have alike at any time, since they make the same steps.
    """

    client: Owned
    replica: Owned
    has_common: bool
    alike: Owned = dataclasses.field(default_factory=Owned)

    def keeping(self, earlier: "Placement") -> "Placement":
        """This placement, in which nobody loses what they owned earlier."""
        client, replica = self.client.keeping(earlier.client), self.replica.keeping(earlier.replica)
        return dataclasses.replace(self, client=client, replica=replica)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placements:
    """Who owns what, client by client.

    Attributes:
        by_cut: The placement at every cut in use.
        cut_of: Says where a client cuts; None for an algorithm without a cut.
        before_cut: The parameters before every cut, trained or not: what a client computes with.
    """

    by_cut: Mapping[str | None, Placement]
    cut_of: Callable[[int], str | None]
    before_cut: Mapping[str | None, Collection[str]] = dataclasses.field(default_factory=dict)

    def of(self, client: int) -> Placement:
        """Who owns what where this client is concerned."""
        return self.by_cut[self.cut_of(client)]

    def keeping(self, earlier: "Placements") -> "Placements":
        """These placements, in which nobody loses what they owned earlier."""
        by_cut = {cut: placement.keeping(earlier.by_cut[cut]) for cut, placement in self.by_cut.items()}
        return dataclasses.replace(self, by_cut=by_cut)

    def to_state(self) -> dict[str | None, dict[str, Any]]:
        """As plain Python, for checkpoints."""
        return {cut: dataclasses.asdict(placement) for cut, placement in self.by_cut.items()}

    @classmethod
    def from_state(cls, state: Mapping[str | None, Any], cut_of: Callable[[int], str | None]) -> "Placements":
        """What :meth:`to_state` gave."""
        by_cut = {
            cut: Placement(
                client=Owned(**found["client"]),
                replica=Owned(**found["replica"]),
                has_common=found["has_common"],
                alike=Owned(**found["alike"]),
            )
            for cut, found in state.items()
        }
        return cls(by_cut=by_cut, cut_of=cut_of)

    @property
    def has_common(self) -> bool:
        """Whether the server steps one copy for all."""
        return all(placement.has_common for placement in self.by_cut.values())

    @property
    def alike(self) -> Owned:
        """What clients have alike at any time, up to the deepest cut."""
        return max((placement.alike for placement in self.by_cut.values()), key=lambda owned: len(owned.parameters))

    @property
    def owned(self) -> Owned:
        """What is owned by clients, on whichever side it is computed. It is the same at every cut."""
        placement = next(iter(self.by_cut.values()))
        return Owned(
            parameters=(*placement.client.parameters, *placement.replica.parameters),
            buffers=(*placement.client.buffers, *placement.replica.buffers),
        )


class Algorithm(Protocol):
    """A split federated learning algorithm."""

    name: ClassVar[str]
    uses_cut: ClassVar[bool]
    schedule: ClassVar[type[Schedule]]

    def place(self, module: nn.Module, split: Split | None, deepest: Split | None) -> Placement:
        """Say who owns what.

        Args:
            module: The module.
            split: The split of a client; None for an algorithm without a cut.
            deepest: The split at the deepest cut of all registered clients.
        """
        ...


def everything(module: nn.Module) -> Owned:
    """All trainable parameters and all buffers of a module."""
    return _owned(module, [name for name, _ in module.named_parameters()], [name for name, _ in module.named_buffers()])


def client_side(module: nn.Module, split: Split) -> Owned:
    """The trainable parameters and the buffers before the cut."""
    return _owned(module, split.client_parameters, split.client_buffers)


def between(module: nn.Module, split: Split, deepest: Split) -> Owned:
    """What lies behind one cut and before the deepest: layers of a client's own that the server computes."""
    near, far = client_side(module, split), client_side(module, deepest)
    return Owned(
        parameters=tuple(name for name in far.parameters if name not in set(near.parameters)),
        buffers=tuple(name for name in far.buffers if name not in set(near.buffers)),
    )


def server_side(module: nn.Module, split: Split) -> Owned:
    """The trainable parameters and the buffers after the cut, but for constants that clients hold too."""
    clients = set(split.client_buffers)
    return _owned(module, split.server_parameters, [name for name in split.server_buffers if name not in clients])


def _owned(module: nn.Module, parameters: Sequence[str], buffers: Sequence[str]) -> Owned:
    return Owned(
        parameters=tuple(name for name in parameters if module.get_parameter(name).requires_grad),
        buffers=tuple(name for name in buffers if _is_persistent(module, name)),
    )


def _is_persistent(module: nn.Module, name: str) -> bool:
    """Whether a buffer is in the state dict. Others are constants (masks, frequencies) that everybody can compute."""
    owner, _, key = name.rpartition(".")
    return key not in module.get_submodule(owner)._non_persistent_buffers_set
