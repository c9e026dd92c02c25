"""Who takes part when, and how long an epoch is. A pure function of the step, so that a run can go on anywhere.

The steps that are counted here are optimizer steps. Where gradients are accumulated, one is made of several batches of
every participant.
"""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning_sfl.random import generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One step's place in the schedule.

    Attributes:
        round: The round it belongs to, what lies between two aggregations.
        participants: The clients that take part in the round.
        clients: Those of them that have a batch in this step, in their order.
        closes_round: Whether it is the last step of its round.
    """

    round: int
    participants: tuple[int, ...]
    clients: tuple[int, ...]
    closes_round: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Says who takes part in which step. Participants are drawn at the start of a round, without replacement.

    Args:
        num_clients: Registered clients.
        clients_per_round: How many of them take part in a round.
        steps_per_round: Steps of each participant between two aggregations.
        seed: The seed.
    """

    num_clients: int
    clients_per_round: int
    steps_per_round: int
    seed: int

    def participants(self, round: int) -> tuple[int, ...]:
        """The clients that take part in a round, in ascending order."""
        return _participants(self.num_clients, self.clients_per_round, self.seed, round)

    @abstractmethod
    def turn(self, step: int) -> Turn:
        """The turn of a step, counted over the whole run."""

    @abstractmethod
    def steps_per_epoch(self, client_sizes: Sequence[int], batch_sizes: Sequence[int], *, drop_last: bool) -> int:
        """Steps of one batch each in which about as many samples are seen as there are.

        Args:
            client_sizes: Samples that each registered client holds.
            batch_sizes: Samples per step of each of them; one that holds fewer has a batch of all it holds.
            drop_last: Whether short batches are dropped.
        """

    def order(self, round: int) -> tuple[int, ...]:
        """The participants of a round in an order drawn for it."""
        return _order(self.participants(round), self.seed, round)


@functools.lru_cache(maxsize=8)
def _participants(num_clients: int, clients_per_round: int, seed: int, round: int) -> tuple[int, ...]:
    """Drawn once for all the steps of a round."""
    if clients_per_round == num_clients:
        return tuple(range(num_clients))
    draw = generator(seed, "participants", round)
    chosen = draw.choice(num_clients, clients_per_round, replace=False, shuffle=False)
    return tuple(sorted(int(client) for client in chosen))


@functools.lru_cache(maxsize=8)
def _order(participants: tuple[int, ...], seed: int, round: int) -> tuple[int, ...]:
    """Drawn once for all the steps of a round."""
    drawn = generator(seed, "order", round).permutation(participants)
    return tuple(int(client) for client in drawn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelSchedule(Schedule):
    """In every step, every participant of the round contributes one mini-batch."""

    def round_of(self, step: int) -> int:
        """The round that a step belongs to."""
        return step // self.steps_per_round

    def closes_round(self, step: int) -> bool:
        """Whether a step is the last of its round."""
        return (step + 1) % self.steps_per_round == 0

    def turn(self, step: int) -> Turn:
        """See :meth:`Schedule.turn`."""
        round = self.round_of(step)
        clients = self.participants(round)
        return Turn(round=round, participants=clients, clients=clients, closes_round=self.closes_round(step))

    def steps_per_epoch(self, client_sizes: Sequence[int], batch_sizes: Sequence[int], *, drop_last: bool) -> int:
        """See :meth:`Schedule.steps_per_epoch`.

        ``samples / (participants/clients · sum of the clients' batch sizes)``, rounded up, or down where short batches
        are dropped.
        """
        together = sum(min(batch, size) for batch, size in zip(batch_sizes, client_sizes, strict=True))
        samples = sum(client_sizes) * self.num_clients
        per_step = self.clients_per_round * together
        return max(1, samples // per_step if drop_last else -(-samples // per_step))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialSchedule(Schedule):
    """One participant after the other, in an order drawn anew each round; a step is one mini-batch of one client."""

    def turn(self, step: int) -> Turn:
        """See :meth:`Schedule.turn`."""
        length = self.clients_per_round * self.steps_per_round
        round, place = divmod(step, length)
        order = self.order(round)
        return Turn(
            round=round,
            participants=tuple(sorted(order)),
            clients=(order[place // self.steps_per_round],),
            closes_round=place == length - 1,
        )

    def steps_per_epoch(self, client_sizes: Sequence[int], batch_sizes: Sequence[int], *, drop_last: bool) -> int:
        """See :meth:`Schedule.steps_per_epoch`.

        The batches of all clients' passes, Σ⌈nᵢ/bᵢ⌉ (or ⌊nᵢ/bᵢ⌋): on average what K drawn clients have, scaled by N/K.
        """
        pairs = zip(client_sizes, batch_sizes, strict=True)
        return max(1, sum(_batches(size, batch, drop_last=drop_last) for size, batch in pairs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaySchedule(SequentialSchedule):
    """The sequential schedule of one set of client weights that is handed on.

    A round is one client's turn with the weights; the clients that take turns are drawn, and their order, for as many
    turns as there are clients per round.
    """

    def turn(self, step: int) -> Turn:
        """See :meth:`Schedule.turn`."""
        turn, place = divmod(step, self.steps_per_round)
        cycle, position = divmod(turn, self.clients_per_round)
        holder = (self.order(cycle)[position],)
        return Turn(round=turn, participants=holder, clients=holder, closes_round=place == self.steps_per_round - 1)


def _batches(size: int, batch_size: int, *, drop_last: bool) -> int:
    """Batches of one pass of a client; one with fewer samples than a batch has one batch of all it holds."""
    if size <= batch_size:
        return 1
    return size // batch_size if drop_last else -(-size // batch_size)
