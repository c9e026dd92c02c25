"""What the server has told clients so far in seeds and scalars, so that one that was away can make up for it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class PairHistory:
    """The (seed, scalar) pairs of all steps, and which of them every client has.

    A client that has not taken part yet has the model that the run began with. When cuts move, the pairs so far are
    let go of: whoever is behind then is sent the weights themselves, like whoever comes to hold more layers.
    """

    def __init__(self) -> None:
        self._seeds: list[Tensor] = []
        self._scalars: list[Tensor] = []
        self._least_depths: list[int] = []
        self._has: dict[int, int] = {}
        self._lacks: dict[int, tuple[str, ...]] = {}

    def append(self, seeds: Tensor, scalars: Tensor, least_depth: int, receivers: Iterable[int]) -> None:
        """Note a step.

        Args:
            seeds: The directions' seeds, (P,).
            scalars: The clients' weighted mean along every direction, (T, P) for T different cuts; see
                :class:`~lightning_sfl.strategy.forward_only_steps.ForwardOnlySteps`.
            least_depth: How many of the different cuts, at least, are not behind that of a client which was moved:
                before the others there was nothing to train.
            receivers: The clients that were told, which had all pairs before.
        """
        self._seeds.append(seeds.cpu())
        self._scalars.append(scalars.cpu())
        self._least_depths.append(least_depth)
        for client in receivers:
            self._has[client] = len(self._seeds)

    def forget_known(self, num_clients: int) -> None:
        """Let go of the pairs that all of so many registered clients have."""
        if len(self._has) < num_clients:
            return
        known = min(self._has.values())
        for kept in (self._seeds, self._scalars, self._least_depths):
            del kept[:known]
        self._has = {client: count - known for client, count in self._has.items()}

    def missed(self, client: int, depth: int) -> dict[str, Tensor]:
        """The pairs that a client has not been told: seeds (S, P) and scalars (S, depth, P); nothing if there are none.

        Args:
            client: The client.
            depth: How many of the different cuts are not behind its own.
        """
        since = self._has.get(client, 0)
        steps = [step for step in range(since, len(self._seeds)) if self._least_depths[step] <= depth]
        if not steps:
            return {}
        seeds, scalars = zip(*((self._seeds[step], self._scalars[step][:depth]) for step in steps), strict=True)
        return {"seeds": torch.stack(seeds), "scalars": torch.stack(scalars)}

    def lacks(self, client: int) -> tuple[str, ...]:
        """Names of what a client holds of the model only since cuts moved, or did not hold in time when they did."""
        return self._lacks.get(client, ())

    def told(self, client: int) -> None:
        """A client has all there is by now."""
        self._has[client] = len(self._seeds)
        self._lacks.pop(client, None)

    def move(
        self, num_clients: int, before: Callable[[int], Collection[str]], now: Callable[[int], Collection[str]]
    ) -> None:
        """Cuts move: note what every registered client is to be sent, given what it holds before and afterwards."""
        lacks: dict[int, tuple[str, ...]] = {}
        for client in range(num_clients):
            up_to_date = self._has.get(client, 0) == len(self._seeds)
            held = set(before(client)) - set(self.lacks(client)) if up_to_date else set()
            if missing := tuple(name for name in now(client) if name not in held):
                lacks[client] = missing
        self._seeds, self._scalars, self._least_depths, self._has, self._lacks = [], [], [], {}, lacks

    def state_dict(self) -> dict[str, Any]:
        """As tensors and plain Python, for checkpoints."""
        return {
            "seeds": torch.stack(self._seeds) if self._seeds else None,
            "scalars": torch.stack(self._scalars) if self._scalars else None,
            "least_depths": self._least_depths,
            "has": self._has,
            "lacks": self._lacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._seeds = [] if state["seeds"] is None else list(state["seeds"].cpu())
        self._scalars = [] if state["scalars"] is None else list(state["scalars"].cpu())
        self._least_depths = list(state["least_depths"])
        self._has = dict(state["has"])
        self._lacks = {client: tuple(names) for client, names in state["lacks"].items()}
