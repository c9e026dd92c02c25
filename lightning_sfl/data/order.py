"""In which order and batches the clients go through their samples.

An epoch's order is the one in which the user's own sampler would visit the training set; a client that starts a pass
takes its samples in that order. So one client that holds everything sees exactly the plain run's batches, drawn from
the very random numbers the plain run would draw.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lightning_sfl.data.partition import Indices
from lightning_sfl.random import generator


class ClientOrder:
    """Every client's way through its own samples, in passes that carry over from epoch to epoch.

    Args:
        parts: The samples of each client.
        batch_sizes: Samples per batch of each client; one that holds fewer has them all in one batch. :meth:`allocate`
            changes them.
        drop_last: Whether a short last batch of a pass is left out.
        shuffled: Whether passes go in the epoch's order; else in the order of the client's own list.
        seed: Seeds the order of a client that starts more than one pass within an epoch.
    """

    def __init__(
        self, parts: Sequence[Indices], batch_sizes: Sequence[int], *, drop_last: bool, shuffled: bool, seed: int
    ) -> None:
        self._parts = parts
        self._batch_sizes = self._nominal = batch_sizes
        self._drop_last = drop_last
        self._shuffled = shuffled
        self._seed = seed
        self._left: dict[int, Indices] = {}
        self._passes: dict[int, int] = {}
        self._passes_before: dict[int, int] = {}
        self._draw_epoch: Callable[[], Sequence[int]] = list
        self._place: Indices | None = None

    def begin_epoch(self, draw: Callable[[], Sequence[int]]) -> None:
        """Begin an epoch; ``draw`` gives the order of the whole training set, and is called when first needed."""
        self._draw_epoch = draw
        self._place = None
        self._passes_before = dict(self._passes)

    def draw_epoch(self) -> None:
        """Draw the epoch's order now, where a plain loader would; nothing if the epoch is being gone on with."""
        if self._place is not None:
            return
        order = np.asarray(self._draw_epoch(), dtype=np.int64)
        if self._shuffled:
            self._place = np.empty(len(order), dtype=np.int64)
            self._place[order] = np.arange(len(order))

    def allocate(self, batch_sizes: Sequence[int] | None) -> None:
        """Give every client a batch size of its own; None gives back what they began with."""
        self._batch_sizes = self._nominal if batch_sizes is None else batch_sizes

    def next_batch(self, client: int) -> Indices:
        """The client's next batch of samples."""
        left = self._left.get(client)
        if left is None or len(left) == 0:
            left = self._new_pass(client)
        size = min(self._batch_sizes[client], len(self._parts[client]))
        batch, left = left[:size], left[size:]
        if self._drop_last and len(left) < size:
            left = left[:0]
        self._left[client] = left
        return batch

    def _new_pass(self, client: int) -> Indices:
        part = self._parts[client]
        number = self._passes.get(client, 0)
        self._passes[client] = number + 1
        if not self._shuffled:
            return part
        if number > self._passes_before.get(client, 0):  # its second pass in this epoch
            return generator(self._seed, "pass", client, number).permutation(part)
        assert self._place is not None, "the epoch's order is drawn before its first batch"
        return part[np.argsort(self._place[part])]

    def progress(self, client: int) -> "Progress":
        """How far a client that has begun is."""
        return Progress(self._passes[client], self._left[client])

    def epoch_state(self) -> dict[str, Any]:
        """What the epoch at hand began with, as tensors and plain Python."""
        return {
            "passes_before": self._passes_before,
            "place": None if self._place is None else torch.from_numpy(self._place),
        }

    def continue_epoch(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        self._passes_before = dict(state["passes_before"])
        self._place = None if state["place"] is None else state["place"].numpy()

    def restore(self, progress: Mapping[int, "Progress"]) -> None:
        """Go back to where the clients were; those not named have not begun."""
        self._passes = {client: found.passes for client, found in progress.items()}
        self._left = {client: found.left for client, found in progress.items()}


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a client is: passes started, and the samples left in the current one."""

    passes: int
    left: Indices
