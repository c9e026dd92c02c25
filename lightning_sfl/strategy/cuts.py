"""Where every registered client cuts, and who owns what then."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from lightning_sfl.algorithms.placement import Algorithm, Placements
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.split import Split

Cut = str | tuple[str, str] | Mapping[int, str] | None
"""As a user gives it: one for all clients, the two of a U-shape, one for every client, or none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
    """The cut of every registered client.

    Attributes:
        num_clients: Registered clients.
        default: The cut of clients not named; None until it is chosen, or for an algorithm without a cut.
        by_client: The cuts of clients that are named.
        last: The second cut of a U-shape, the same for all clients; the others are first cuts then.
    """

    num_clients: int
    default: str | None
    by_client: Mapping[int, str] = dataclasses.field(default_factory=dict)
    last: str | None = None

    @classmethod
    def given(cls, cut: Cut, num_clients: int) -> "Cuts":
        """What the user gave: one cut for all, two, one for every client, or None."""
        if cut is None or isinstance(cut, str):
            return cls(num_clients=num_clients, default=cut)
        if isinstance(cut, tuple):
            return cls(num_clients=num_clients, default=cut[0], last=cut[1])
        return cls.of_all([cut[client] for client in range(num_clients)])

    @classmethod
    def of_all(cls, cuts: Sequence[str], last: str | None = None) -> "Cuts":
        """One cut per client; the most frequent is kept as the default, so that many equal cuts cost nothing."""
        default = max(sorted(set(cuts)), key=list(cuts).count)
        named = {client: cut for client, cut in enumerate(cuts) if cut != default}
        return cls(num_clients=len(cuts), default=default, by_client=named, last=last)

    def of(self, client: int) -> str | None:
        """Where a client cuts."""
        return self.by_client.get(client, self.default)

    @property
    def names(self) -> list[str]:
        """All cuts in use, but for the last one of a U-shape."""
        default = [] if self.default is None or len(self.by_client) == self.num_clients else [self.default]
        return sorted({*default, *self.by_client.values()})


def trained(parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> tuple[object, ...]:
    """What ownership depends on beside the cuts: which parameters are trained, and in which groups they stand."""
    return (
        tuple(parameter.requires_grad for parameter in parameters),
        tuple(len(group["params"]) for group in optimizer.param_groups),
    )


def placements(module: nn.Module, algorithm: Algorithm, cuts: Cuts, splits: Mapping[str, Split]) -> Placements:
    """Who owns what at these cuts.

    Raises:
        CutError: The cuts do not lie one behind the other.
    """
    if not algorithm.uses_cut:
        names = {name for name, _ in module.named_parameters()}
        return Placements(by_cut={None: algorithm.place(module, None, None)}, cut_of=cuts.of, before_cut={None: names})
    in_order = sorted((splits[name] for name in cuts.names), key=lambda split: len(split.client_parameters))
    for near, far in itertools.pairwise(in_order):
        if beyond := set(near.client_parameters) - set(far.client_parameters):
            raise CutError(
                f"cut={near.cut!r} and cut={far.cut!r} do not lie one behind the other: {min(beyond)!r} is before the"
                " first and not before the second. Clients can cut at different places of one path through the model."
            )
    deepest = in_order[-1]
    return Placements(
        by_cut={split.cut: algorithm.place(module, split, deepest) for split in in_order},
        cut_of=cuts.of,
        before_cut={split.cut: set(split.client_parameters) for split in in_order},
    )
