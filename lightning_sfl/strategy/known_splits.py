"""What is known of whose is what: the splits that steps on real batches have shown."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import Precision

from lightning_sfl.cut.batch import copied_batch, named_tensors
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.first_step import SkippedStep, WatchedStep, choose_cut, probe, watched_step

_WATCH_AGAIN_AFTER = 50
"""Steps between two watched ones at least, so that watching costs little where epochs are short."""


class KnownSplits:
    """The splits found so far, by cut, and which of them hold for batches of a form.

    Args:
        module: The user's module.
        precision: The trainer's precision, in whose context steps run.
        server_inputs: Model inputs that may cross.

    Attributes:
        splits: Whose is what at every cut used so far.
        seen: The last batch from which something was learnt; None before.
    """

    def __init__(self, module: pl.LightningModule, precision: Precision, server_inputs: tuple[str, ...]) -> None:
        self.splits: dict[str, Split] = {}
        self.seen: object = None
        self._module = module
        self._precision = precision
        self._server_inputs = server_inputs
        self._by_form: dict[tuple[str | None, tuple[str, ...]], Split] = {}
        self._epoch = -1
        self._learnt_at = -_WATCH_AGAIN_AFTER

    def begin(self, epoch: int, step: int) -> None:
        """Begin a step: what steps do may change from epoch to epoch."""
        if epoch != self._epoch and step >= self._learnt_at + _WATCH_AGAIN_AFTER:
            self._epoch = epoch
            self.forget()

    def forget(self) -> None:
        """What crosses shows anew when a cut is used next."""
        self._by_form = {}

    def of(self, cut: str | None, batch: object) -> Split | None:
        """The split at a cut for batches like this one; None if it has to be found first."""
        return self._by_form.get((cut, _form(batch)))

    def watch(self, cut: str, cuts: Cuts, batch: object, forward: Callable[[], Any]) -> WatchedStep | None:
        """Run a step watched; see :func:`~lightning_sfl.strategy.first_step.watched_step`."""
        return watched_step(self._module, cut, cuts, batch, self._server_inputs, forward)

    def learn(self, splits: dict[str, Split], batch: object, step: int) -> None:
        """Note what a step on this batch showed."""
        self.splits.update(splits)
        self._by_form.update({(cut, _form(batch)): split for cut, split in splits.items()})
        self._learnt_at = step
        self.seen = batch

    def probed(self, names: Sequence[str], last: str | None, batch: object) -> dict[str, Split]:
        """Splits found on a copy of the module."""
        if not names:
            return {}
        with self._precision.train_step_context():
            search = probe(self._module, batch, self._server_inputs, last)
            return {name: search.cut(name).split for name in names}

    def in_order(self, names: Sequence[str] | None, last: str | None, batch: object) -> dict[str, Split]:
        """Splits found on a copy of the module, in the order in which it runs; None: at every valid cut."""
        with self._precision.train_step_context():
            search = probe(self._module, batch, self._server_inputs, last)
            if names is None:
                return {cut.name: cut.split for cut in search.cuts()}
            return {name: search.cut(name).split for name in search.in_order(names)}

    def probed_by_any(self, names: Sequence[str], last: str | None, batches: ClientBatches) -> dict[str, Split] | None:
        """Splits found on a copy with the first batch whose step is not skipped; None if all are."""
        for client in batches:
            batch = copied_batch(batches[client])
            try:
                splits = self.probed(names, last, batch)
            except SkippedStep:
                continue
            self.seen = batch
            return splits
        return None

    def on_copy(self, cuts: Cuts, batch: object, step: int, accept: Callable[[dict[str, Split]], object]) -> None:
        """Learn the splits at these cuts from a step on a copy of the module, before the real one.

        They are handed to ``accept`` first, which raises if the run cannot go by them.
        """
        kept = copied_batch(batch)
        splits = self.probed(cuts.names, cuts.last, kept)
        accept(splits)
        self.learn(splits, kept, step)

    def choose(self, batch: object) -> str:
        """The default cut."""
        with self._precision.train_step_context():
            return choose_cut(self._module, batch, self._server_inputs)


def _form(batch: object) -> tuple[str, ...]:
    """The names of a batch's tensors: what crosses is known for batches of the same form."""
    return tuple(named_tensors(batch))
