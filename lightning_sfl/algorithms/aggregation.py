"""How participants count against each other, and what becomes of their optimizer state when they are averaged."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from lightning_sfl.clients import Participant


class Weighting(StrEnum):
    """What a participant counts in proportion to when clients are averaged.

    ``samples`` it processed since the last aggregation, ``data`` it holds, or ``uniform``: nothing (HASFL, arXiv
    2506.08426). Under ``uniform`` the server's loss of a step is the plain mean of the participants' losses too;
    else it is weighted by the step's batch sizes.
    """

    SAMPLES = "samples"
    DATA = "data"
    UNIFORM = "uniform"


class ClientOptimizerState(StrEnum):
    """What becomes of the clients' optimizer state at an aggregation, and of that of their server replicas.

    ``average`` it (it is sent, and metered), ``reset`` it, or let each client ``keep`` its own.
    """

    AVERAGE = "average"
    RESET = "reset"
    KEEP = "keep"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How participants become one model.

    Args:
        weighting: What they count in proportion to.
        client_optimizer_state: What becomes of their optimizer state.
        client_samples: Says how many samples a client holds.
    """

    weighting: Weighting = Weighting.SAMPLES
    client_optimizer_state: ClientOptimizerState = ClientOptimizerState.AVERAGE
    client_samples: Callable[[int], int]

    def weights(self, participants: Sequence[Participant]) -> list[float]:
        """Weights of participants in the mean of their weights, summing to 1."""
        if self.weighting is Weighting.UNIFORM:
            return proportional([1] * len(participants))
        if self.weighting is Weighting.DATA:
            return proportional([self.client_samples(participant.client) for participant in participants])
        return proportional([participant.samples for participant in participants])

    def loss_weights(self, batch_sizes: Mapping[int, int]) -> dict[int, float]:
        """Weights of the clients in the server's loss of one step, summing to 1."""
        counts = [1] * len(batch_sizes) if self.weighting is Weighting.UNIFORM else list(batch_sizes.values())
        return dict(zip(batch_sizes, proportional(counts), strict=True))


def proportional(counts: Sequence[int]) -> list[float]:
    """Weights in proportion to counts, summing to 1; exactly 1 for a single party."""
    total = sum(counts)
    return [count / total for count in counts]
