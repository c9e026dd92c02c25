"""The training loader of the clients: the user's loader, with its samples dealt out."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import cached_property
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader

from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.data.checks import check_loader
from lightning_sfl.data.client_loaders import ClientLoaders
from lightning_sfl.data.labels import labels_of
from lightning_sfl.data.partition import Indices, Partition
from lightning_sfl.data.plan import BatchPlan
from lightning_sfl.data.seeded import SeededSamples
from lightning_sfl.random_state import RandomState
from lightning_sfl.schedule import Schedule


class ClientLoader:
    """Yields :class:`ClientBatches`, one per step.

    One ``DataLoader`` with one pool of workers serves all clients; data set, ``collate_fn``, workers, pinning and
    ``generator`` are those of the user's loader. It has a length, and its state counts delivered batches.

    Args:
        loader: The user's training loader.
        parts: The samples of each client.
        schedule: Who takes part when.
        batch_sizes: Samples per step of each client.
        seed: The seed of the clients' orders.
        accumulates: Steps whose gradients one optimizer step is made of; the schedule counts optimizer steps.
        are_own_sizes: Whether the batch sizes are the clients' own, as the parts are: a run with others cannot go on.

    Attributes:
        most_steps: Steps after which whoever asks for them leaves off an epoch, as `limit_train_batches` makes a
            trainer do. A state saved there is one of a finished epoch.
        random_state: Put back when the first step after :meth:`load_state_dict` is asked for.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        parts: list[Indices],
        schedule: Schedule,
        *,
        batch_sizes: Sequence[int],
        seed: int,
        accumulates: int,
        are_own_sizes: bool = False,
    ) -> None:
        self._dataset = loader.dataset
        self._collate = loader.collate_fn
        self.drop_last = loader.drop_last
        self.parts = parts
        self.schedule = schedule
        self.batch_sizes = batch_sizes
        self.accumulates = accumulates
        self._are_own_sizes = are_own_sizes
        self.most_steps = math.inf
        self.random_state: RandomState | None = None
        self._allocated: list[int] | None = None
        self._is_resumed = False
        self._plan = BatchPlan(loader, parts, schedule, batch_sizes=batch_sizes, seed=seed, accumulates=accumulates)
        self._loader: DataLoader[Any] = DataLoader(
            SeededSamples(loader.dataset, seed) if loader.num_workers > 0 else loader.dataset,
            batch_sampler=self._plan,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    @property
    def starts_over(self) -> bool:
        """Whether every client begins a new pass with every epoch, as a plain loader does; else passes carry over."""
        return self._plan.starts_over

    @starts_over.setter
    def starts_over(self, starts_over: bool) -> None:
        self._plan.starts_over = starts_over

    def __len__(self) -> int:
        return self._plan.steps_per_epoch

    def collate(self, indices: Sequence[int]) -> Any:
        """The batch that these samples of the training set make."""
        return self._collate([self._dataset[index] for index in indices])

    @property
    def dataset(self) -> Any:
        """The training set."""
        return self._dataset

    @property
    def worker_init_fn(self) -> Callable[[int], None] | None:
        """The worker initialisation; Lightning sets one for `seed_everything(workers=True)`."""
        return self._loader.worker_init_fn

    @worker_init_fn.setter
    def worker_init_fn(self, function: Callable[[int], None] | None) -> None:
        self._loader.worker_init_fn = function

    @property
    def _iterator(self) -> Any:
        """The iterator with persistent workers, where Lightning looks for it to end them after a fit."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator

    def __iter__(self) -> Iterator[ClientBatches]:
        """Begin an epoch. What workers had fetched ahead was never delivered, and is planned again.

        After :meth:`load_state_dict` nothing is drawn before the first step is asked for.
        """
        return self._resumed() if self._is_resumed else self._deliver(self._begin())

    def _begin(self) -> Iterator[Any]:
        """Begin an epoch, or go on with one, which draws nothing: the run that was saved had drawn already."""
        resumed, self._is_resumed = self._is_resumed, False
        if self.random_state is not None:
            self.random_state.restore()
            self.random_state = None
        if resumed and 0 < self._plan.epoch_steps < min(len(self), self.most_steps):
            self._plan.continue_epoch()
            return self._traceless_iterator()
        if resumed and self._loader.persistent_workers and self._plan.delivered_steps > 0:
            self._plan.begin_epoch()
            self._traceless_iterator()  # starts the workers, which the run that was saved had started long before
        self._plan.begin_epoch()
        return iter(self._loader)

    def _traceless_iterator(self) -> Iterator[Any]:
        """An iterator of the loader whose making leaves no trace in random states."""
        generator = self._loader.generator
        state, own = RandomState.capture(), None if generator is None else generator.get_state()
        fetched = iter(self._loader)  # draws a seed for workers
        state.restore()
        if generator is not None and own is not None:
            generator.set_state(own)
        return fetched

    def _resumed(self) -> Iterator[ClientBatches]:
        yield from self._deliver(self._begin())

    @property
    def next_round(self) -> int:
        """The first round of which no step was delivered."""
        return self._plan.next_round

    @property
    def next_batch_sizes(self) -> list[int]:
        """Every client's samples per step from the next round on."""
        return list(self._allocated or self._plan.batch_sizes or self.batch_sizes)

    def allocate(self, batch_sizes: list[int]) -> None:
        """Give every client another batch size from the next round on."""
        self._allocated = batch_sizes

    def _deliver(self, fetched: Iterator[Any]) -> Iterator[ClientBatches]:
        for _ in range(len(self) - self._plan.epoch_steps):
            step = self._plan.delivered_steps
            turn, begins = self._plan.next_turn(), self._plan.begins_optimizer_step
            if self._allocated is not None and self._plan.begins_round:
                self._plan.allocate(self._allocated)
                self._allocated = None
                fetched = self._traceless_iterator()
            batches: dict[int, Any] = {}
            indices: dict[int, tuple[int, ...]] = {}
            whole = False
            while not whole:
                batch = next(fetched)
                client, samples, whole = self._plan.deliver()
                batches[client] = batch
                indices[client] = tuple(samples.tolist())
            yield ClientBatches(
                batches=batches,
                indices=indices,
                round=turn.round,
                step=step,
                participants=turn.participants,
                begins_optimizer_step=begins,
                closes_round=turn.closes_round,
            )

    @cached_property
    def _fingerprint(self) -> str:
        """Tells one partition from another."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        if self._are_own_sizes:
            digest.update(np.asarray(self.batch_sizes, dtype="<i8").tobytes())
        return digest.hexdigest()

    def go_on_after(self, earlier: "ClientLoader") -> None:
        """Take the place of a loader whose data were reloaded: steps and rounds go on, passes begin anew."""
        self._plan.delivered_steps = earlier._plan.delivered_steps
        self._plan.optimizer_steps = earlier._plan.optimizer_steps

    def state_dict(self) -> dict[str, Any]:
        """Delivered steps, how far every client is, and the epoch at hand, as tensors and plain Python."""
        generator = self._loader.generator
        return {
            **self._plan.state_dict(),
            "allocated": self._allocated,
            "generator": None if generator is None else generator.get_state(),
            "parts": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is that of other data, or of another partition.
        """
        if state["parts"] != self._fingerprint:
            raise ValueError(
                "The checkpoint was saved with another partition of the training set, or with other clients. Give the"
                " same data, partition= (with the same batch sizes, where it is a loader per client), num_clients= and"
                " seed=, or load its weights alone and start anew."
            )
        self._plan.load_state_dict(state)
        self._allocated = state["allocated"]
        if state["generator"] is not None and self._loader.generator is not None:
            self._loader.generator.set_state(state["generator"])
        self._is_resumed = True


def client_loader(
    loader: object,
    *,
    partition: Partition,
    num_clients: int,
    batch_size: int | None,
    schedule: Schedule,
    seed: int,
    accumulates: int = 1,
    in_order: bool = False,
) -> ClientLoader:
    """Deal the samples of the user's training loader out to the clients.

    Args:
        loader: The user's training loader.
        partition: Deals the samples out.
        num_clients: Registered clients.
        batch_size: Samples per client and step; None takes the loader's, or each client's own loader's.
        schedule: Who takes part when.
        seed: The seed of partition and orders.
        accumulates: Steps whose gradients one optimizer step is made of.
        in_order: Whether clients' own loaders are not shuffled, whatever they say.

    Raises:
        ValueError: The loader is not one whose samples can be dealt out, or the partition cannot be made.
    """
    own = partition if isinstance(partition, ClientLoaders) else None
    plain = check_loader(loader) if own is None else own.joined(loader, in_order=in_order)
    size = len(cast(Sized, plain.dataset))
    if num_clients > size:
        raise ValueError(f"num_clients={num_clients} is more than the training set has samples ({size}).")
    parts = [np.asarray(part, dtype=np.int64) for part in partition.split(size, num_clients, _labels(plain), seed)]
    if len(parts) != num_clients or sorted(np.concatenate(parts).tolist()) != list(range(size)):
        raise ValueError(
            f"partition={partition!r} dealt the samples out to {len(parts)} clients, or not each of the {size}"
            f" samples to exactly one; num_clients={num_clients}."
        )
    if empty := [client for client, part in enumerate(parts) if len(part) == 0]:
        raise ValueError(f"partition={partition!r} gave clients {empty} no sample; every client needs one.")
    own_sizes = own is not None and batch_size is None
    nominal = batch_size or plain.batch_size
    assert own_sizes or nominal is not None
    return ClientLoader(
        plain,
        parts,
        schedule,
        batch_sizes=own.batch_sizes if own is not None and own_sizes else [nominal or 1] * num_clients,
        seed=seed,
        accumulates=accumulates,
        are_own_sizes=own_sizes,
    )


def _labels(loader: DataLoader[Any]) -> Callable[[], Indices]:
    return lambda: labels_of(loader.dataset)
