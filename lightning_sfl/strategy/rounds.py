"""The rounds of a fit: who owns what in each, where clients cut, and how a round is opened, closed and gone on with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import Aggregation
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Algorithm, Placements
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.link import Link
from lightning_sfl.strategy.cuts import Cuts, placements, trained
from lightning_sfl.strategy.known_splits import KnownSplits
from lightning_sfl.strategy.moving_cuts import MovingCuts
from lightning_sfl.strategy.presence import Presence


class Rounds:
    """Holds the federation from round to round.

    Args:
        module: The user's module.
        optimizer: The user's optimizer.
        algorithm: Says who owns what.
        aggregation: How participants become one model.
        link: Carries what crosses.
        cuts: Where every client cuts.
        presence: Says which participants count.
        known: The splits.

    Attributes:
        federation: Who takes part and owns what; None until the first step has told.
        count: Rounds begun.
        lost_first: (round, client) of those lost before there was a federation.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: Optimizer,
        *,
        algorithm: Algorithm,
        aggregation: Aggregation,
        link: Link,
        cuts: Cuts,
        presence: Presence,
        known: KnownSplits,
    ) -> None:
        self._module = module
        self._parameters = list(module.parameters())
        self._optimizer = optimizer
        self._algorithm = algorithm
        self.aggregation = aggregation
        self._link = link
        self._moving = MovingCuts(cuts)
        self._presence = presence
        self.known = known
        self.federation: Federation | None = None
        self.count = 0
        self.lost_first: set[tuple[int, int]] = set()
        self._saved: Mapping[str, Any] | None = None
        self._trained_then: tuple[object, ...] = ()
        self._keeps_frozen = False

    @property
    def cuts(self) -> Cuts:
        """Where every client cuts."""
        return self._moving.now

    @property
    def planned_cuts(self) -> Cuts:
        """Where every client is to cut in the end."""
        return self._moving.last

    def begin(self, batches: ClientBatches) -> None:
        """Begin a step: stop showing the global model, and begin its round if it is a new one.

        Nothing is begun where it is not known yet whose is what.
        """
        if self.federation is None and self._saved is not None:
            self._go_on(batches)
            if self._saved is not None:
                return
        if self.federation is None:
            if self._algorithm.uses_cut:
                if self._moving.due(batches.round):
                    self._moving.move(batches.round)  # nothing is anywhere yet that could change hands
                return
            self.found({})
        assert self.federation is not None
        self.federation.resume()
        if self.federation.round not in (None, batches.round):
            # The last step of the round before was skipped.
            self._close(dataclasses.replace(batches, round=self.federation.round, step=batches.step - 1))
        if trained(self._parameters, self._optimizer) != self._trained_then or (
            self.federation.round is None and self._keeps_frozen
        ):
            self._place_again()
        if batches.begins_optimizer_step:
            self.federation.alike.drop_gradients()
        for client in batches:
            if client in self.federation.participants and batches.begins_optimizer_step:
                self.federation.participants[client].drop_gradients()  # of a step that was not followed by theirs
        if self.federation.round == batches.round:
            return
        if cuts := self._moving.due(batches.round):
            self._move(cuts, batches)
        self.federation.open(batches.round, batches.participants, batches.step)
        for client, participant in self.federation.participants.items():
            participant.lost = (batches.round, client) in self.lost_first
        self.lost_first = set()
        self.count += 1

    def choose_cut(self, batch: object) -> None:
        """Take the default cut if none was named."""
        if self.cuts.default is None:
            chosen = self.known.choose(batch)
            self._moving.now = dataclasses.replace(self.cuts, default=chosen)
            rank_zero_info(f"cut=None: the default, {chosen!r}, is taken.")

    def found(self, splits: Mapping[str, Split], keep: Placements | None = None) -> Federation:
        """Make the federation of what was found; ``keep`` is what participants in mid-round own in any case."""
        self.known.splits.update(splits)
        self._trained_then = trained(self._parameters, self._optimizer)
        now = self._placements(splits)
        found = now if keep is None else now.keeping(keep)
        self._keeps_frozen = found.by_cut != now.by_cut
        self.federation = Federation(self._module, self._optimizer, found, self._link, self.aggregation)
        return self.federation

    def check_same(self, splits: Mapping[str, Split], client: int) -> None:
        """Raise a CutError if a later step needs other splits than the run goes by."""
        if self._placements(splits).by_cut != self._placements(self.known.splits).by_cut:
            raise CutError(
                f"cut={self.cuts.of(client)!r}: the training step has changed, and other weights lie before and after"
                " the cut than at the start of the run."
            )

    def finish(self, batches: ClientBatches) -> None:
        """End a step whose parties have stepped: aggregate if it closes its round."""
        if self.federation is not None and batches.closes_round:
            self._close(batches)

    def _close(self, batches: ClientBatches) -> None:
        assert self.federation is not None
        self._presence.before_upload(self.federation, batches)
        self.federation.close(batches.step)

    def allocate(self, cuts: Cuts, round: int) -> None:
        """Let clients cut elsewhere from a round on that has not begun.

        Raises:
            CutError: A cut is not valid, or the cuts do not lie one behind the other. Nothing is changed then. Before
                the first batch was seen, it is the step that first cuts there which raises it.
        """
        if self.known.seen is not None:
            self._check(cuts)
        self._moving.plan(cuts, round)

    def learn(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Find out whose is what at these cuts, which may be allocated later; None: every valid one of a chain.

        Returns:
            Their names, in the order in which the model runs.

        Raises:
            CutError: A cut is not valid, or the cuts do not lie one behind the other.
        """
        assert self.known.seen is not None
        found = self.known.in_order(names, self.cuts.last, self.known.seen)
        if names is None:
            found = _chain(found)
        placements(self._module, self._algorithm, Cuts.of_all(list(found), self.cuts.last), found)
        self.known.splits.update(found)
        return tuple(found)

    def _check(self, cuts: Cuts) -> None:
        """Find out whose is what at these cuts, and raise a CutError if they cannot be."""
        splits = self.known.splits
        found = splits | self.known.probed(
            [name for name in cuts.names if name not in splits], cuts.last, self.known.seen
        )
        placements(self._module, self._algorithm, cuts, found)
        splits.update(found)

    def _move(self, cuts: Cuts, batches: ClientBatches) -> None:
        """Let clients cut where they were told to; what changes hands crosses the link."""
        assert self.federation is not None
        self._check(cuts)
        self._moving.move(batches.round)
        self.known.forget()
        before = self.federation
        after = self.found(self.known.splits)
        before.hand_over(after, batches.round, batches.step)

    def state_dict(self) -> dict[str, Any]:
        """The round at hand, for checkpoints."""
        if self.federation is None:
            if self._saved is None:
                return {**self._moving.state_dict(), "lost_first": sorted(self.lost_first)}
            return {**self._saved, **self._moving.planned()}
        return {
            **self._moving.state_dict(),
            "rounds": self.count,
            "placements": self.federation.placements.to_state() if self.federation.participants else {},
            "federation": self.federation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved round at the first step, at the same cut or at another."""
        self._saved = state

    def end(self) -> None:
        """Let go of the participants, but for what a checkpoint saved from now on holds of them."""
        self._saved, self.federation = self.state_dict(), None

    def _go_on(self, batches: ClientBatches) -> None:
        """Make the federation as it was saved.

        The step that finds whose is what runs on a copy: participants are in mid-round, with weights of their own.
        Where everybody skips it, a later one is to tell.
        """
        assert self._saved is not None
        saved, self._saved = self._saved, None
        splits: dict[str, Split] = {}
        goes_on = True
        if self._algorithm.uses_cut:
            goes_on = self._moving.go_on(saved)
        if "federation" not in saved:  # nobody had had a loss yet
            self.lost_first = {(round, client) for round, client in saved["lost_first"]}
            return
        if self._algorithm.uses_cut:
            found = self.known.probed_by_any(self._moving.names, self.cuts.last, batches)
            if found is None:
                self._saved = saved
                return
            splits = found
        # Participants may own what was frozen in mid-round.
        keep = Placements.from_state(saved["placements"], self.cuts.of) if goes_on and saved["placements"] else None
        federation = self.found(splits, keep)
        federation.load_state_dict(saved["federation"])
        for client, participant in federation.participants.items():
            participant.lost |= (federation.round, client) in self.lost_first  # in steps that everybody else skipped
        for name in federation.placements.owned.parameters:
            self._module.get_parameter(name).grad = None  # of a layer that was the server's
        self.count = saved["rounds"]

    def _place_again(self) -> None:
        """Say anew who owns what, in the middle of a round if need be: parameters were frozen or unfrozen.

        What participants own in a round and is frozen meanwhile stays theirs until it is averaged at the round's end.
        """
        assert self.federation is not None
        before = self.federation
        state = before.state_dict()
        self.found(self.known.splits, keep=before.placements if before.participants else None).load_state_dict(state)

    def _placements(self, splits: Mapping[str, Split]) -> Placements:
        return placements(self._module, self._algorithm, self.cuts, splits)


def _chain(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Those of the splits, in order, whose client holds all that the client of the one before holds, and not all."""
    chain: dict[str, Split] = {}
    held: set[str] = set()
    for name, split in splits.items():
        if held <= set(split.client_parameters) and split.server_parameters:
            chain[name], held = split, set(split.client_parameters)
    return chain
