"""Who takes part when, and how long an epoch is."""

import dataclasses
from collections.abc import Sequence

from lightning_sfl.random import generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelSchedule:
    """In every step, every participant of the round contributes one mini-batch.

    Participants are drawn at the start of a round, without replacement, and stay for it.

    Args:
        num_clients: Registered clients.
        clients_per_round: How many of them take part in a round.
        steps_per_round: Steps between two aggregations.
        seed: The seed.
    """

    num_clients: int
    clients_per_round: int
    steps_per_round: int
    seed: int

    def round_of(self, step: int) -> int:
        """The round that a step, counted over the whole run, belongs to."""
        return step // self.steps_per_round

    def closes_round(self, step: int) -> bool:
        """Whether a step is the last of its round."""
        return (step + 1) % self.steps_per_round == 0

    def participants(self, round: int) -> tuple[int, ...]:
        """The clients that take part in a round, in ascending order."""
        if self.clients_per_round == self.num_clients:
            return tuple(range(self.num_clients))
        draw = generator(self.seed, "participants", round)
        chosen = draw.choice(self.num_clients, self.clients_per_round, replace=False, shuffle=False)
        return tuple(sorted(int(client) for client in chosen))

    def steps_per_epoch(self, client_sizes: Sequence[int], batch_size: int, *, drop_last: bool) -> int:
        """Steps in which about as many samples are seen as there are.

        ``samples / (participants/clients · sum of the clients' batch sizes)``, rounded up, or down where short batches
        are dropped. A client with fewer samples than ``batch_size`` has a batch of all it holds.
        """
        batch_sizes = sum(min(batch_size, size) for size in client_sizes)
        samples = sum(client_sizes) * self.num_clients
        per_step = self.clients_per_round * batch_sizes
        return max(1, samples // per_step if drop_last else -(-samples // per_step))
