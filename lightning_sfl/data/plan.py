"""The plan of an epoch: which samples of which client are fetched next. Workers may run ahead of what is delivered."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, RandomSampler

from lightning_sfl.data.order import ClientOrder, Progress
from lightning_sfl.data.partition import Indices
from lightning_sfl.data.seeded import Sample
from lightning_sfl.schedule import Schedule, Turn


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A client's batch that was asked of the workers, and how far the client is once it is delivered."""

    client: int
    indices: Indices
    progress: Progress
    last_of_step: bool


class BatchPlan:
    """Index lists for ``DataLoader(batch_sampler=...)``, one per client and step; of :class:`Sample` for workers.

    It knows nothing of the loader it is handed to: a cycle would keep persistent workers alive.

    Args:
        loader: The user's training loader, for its sampler.
        parts: The samples of each client.
        schedule: Who takes part when.
        batch_sizes: Samples per step of each client.
        seed: The seed of the clients' orders.
        accumulates: Steps whose gradients one optimizer step is made of. The schedule counts optimizer steps; an epoch
            begins with a new one, however many steps the last of the epoch before had.

    Attributes:
        starts_over: Whether every client begins a new pass with every epoch, as a plain loader does; else passes carry
            over.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        parts: Sequence[Indices],
        schedule: Schedule,
        *,
        batch_sizes: Sequence[int],
        seed: int,
        accumulates: int,
    ) -> None:
        size = len(cast(Sized, loader.dataset))
        assert loader.batch_size is not None
        # Where a plain loader asks its sampler once more than there are samples: for a short last batch, and wherever
        # workers fetch ahead. A sampler with a generator of its own draws from it then.
        self._asks_beyond_the_end = (not loader.drop_last and size % loader.batch_size > 0) or loader.num_workers > 0
        self._in_workers = loader.num_workers > 0
        self._size = size
        self._sampler = loader.sampler
        self._schedule = schedule
        self._order = ClientOrder(
            parts,
            batch_sizes,
            drop_last=loader.drop_last,
            shuffled=isinstance(loader.sampler, RandomSampler),
            seed=seed,
        )
        sizes = [len(part) for part in parts]
        self.steps_per_epoch = schedule.steps_per_epoch(sizes, batch_sizes, drop_last=loader.drop_last)
        self._accumulates = accumulates
        self.delivered_steps = 0
        self.optimizer_steps = 0
        self.epoch_steps = 0
        self.starts_over = False
        self.batch_sizes: Sequence[int] | None = None
        self._progress: dict[int, Progress] = {}
        self._planned: deque[_Planned] = deque()

    def begin_epoch(self) -> None:
        """Begin an epoch from what was delivered."""
        if self.starts_over:
            self._progress = {client: Progress(at.passes, at.left[:0]) for client, at in self._progress.items()}
        self._order.restore(self._progress)
        self._planned.clear()
        self.epoch_steps = 0
        self._order.begin_epoch(self._epoch_order)

    def continue_epoch(self) -> None:
        """Go on with the epoch that the loaded state was saved in, which draws nothing."""
        self._order.restore(self._progress)
        self._planned.clear()

    def allocate(self, batch_sizes: Sequence[int]) -> None:
        """Plan with these batch sizes from what was delivered on; what workers fetched ahead is planned again."""
        self._order.restore(self._progress)
        self._planned.clear()
        self.batch_sizes = batch_sizes
        self._order.allocate(batch_sizes)

    def _epoch_order(self) -> list[int]:
        """Where the user's sampler goes in this epoch, drawing what a plain loader draws from it."""
        visits = iter(self._sampler)
        order = list(itertools.islice(visits, self._size))
        if self._asks_beyond_the_end:
            next(visits, None)
        return order

    def __iter__(self) -> Iterator[list[int] | list[Sample]]:
        self._order.draw_epoch()
        before = self._optimizer_steps_before_epoch
        for place in range(self.epoch_steps, self.steps_per_epoch):
            clients = self._schedule.turn(before + place // self._accumulates).clients
            for client in clients:
                indices = self._order.next_batch(client)
                progress = self._order.progress(client)
                self._planned.append(_Planned(client, indices, progress, last_of_step=client == clients[-1]))
                samples: list[int] = indices.tolist()
                yield [Sample(client, progress.passes, index) for index in samples] if self._in_workers else samples

    @property
    def begins_optimizer_step(self) -> bool:
        """Whether the next step is the first of those that one optimizer step is made of."""
        return self.epoch_steps % self._accumulates == 0

    def next_turn(self) -> Turn:
        """The turn of the optimizer step that the next step belongs to."""
        return self._schedule.turn(self.optimizer_steps - (not self.begins_optimizer_step))

    @property
    def next_round(self) -> int:
        """The first round of which no step was delivered."""
        return self._schedule.turn(self.optimizer_steps - 1).round + 1 if self.optimizer_steps > 0 else 0

    @property
    def begins_round(self) -> bool:
        """Whether the next step is the first of a round."""
        return self.begins_optimizer_step and self.next_turn().round == self.next_round

    @property
    def _optimizer_steps_before_epoch(self) -> int:
        return self.optimizer_steps - -(-self.epoch_steps // self._accumulates)

    def deliver(self) -> tuple[int, Indices, bool]:
        """Note that the next planned batch was delivered.

        Returns:
            Its client, its samples, and whether it is the last of its step.
        """
        planned = self._planned.popleft()
        self._progress[planned.client] = planned.progress
        self.optimizer_steps += planned.last_of_step and self.begins_optimizer_step
        self.delivered_steps += planned.last_of_step
        self.epoch_steps += planned.last_of_step
        return planned.client, planned.indices, planned.last_of_step

    def state_dict(self) -> dict[str, Any]:
        """Steps delivered and optimizer steps begun, how far every client is, the epoch at hand; as plain data."""
        return {
            "delivered_steps": self.delivered_steps,
            "optimizer_steps": self.optimizer_steps,
            "progress": {
                client: (found.passes, torch.from_numpy(found.left)) for client, found in self._progress.items()
            },
            "epoch_steps": self.epoch_steps,
            "batch_sizes": None if self.batch_sizes is None else list(self.batch_sizes),
            "epoch": self._order.epoch_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.delivered_steps = state["delivered_steps"]
        self.optimizer_steps = state["optimizer_steps"]
        self._progress = {
            client: Progress(passes, left.numpy()) for client, (passes, left) in state["progress"].items()
        }
        self._order.restore(self._progress)
        self.epoch_steps = state["epoch_steps"]
        self.batch_sizes = state["batch_sizes"]
        self._order.allocate(self.batch_sizes)
        self._order.continue_epoch(state["epoch"])
