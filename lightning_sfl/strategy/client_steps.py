"""The clients' forward and backward passes within one training step, and the rounds they belong to."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import Aggregation
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Algorithm, Placements
from lightning_sfl.attendance import Stage
from lightning_sfl.cut.batch import copied_batch, named_tensors
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.modes import halt
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.strategy.cuts import Cuts, placements, trained
from lightning_sfl.strategy.first_step import WatchedStep, choose_cut, pass_through, probe, watched_step
from lightning_sfl.strategy.loss_scale import LossScale
from lightning_sfl.strategy.moving_cuts import MovingCuts
from lightning_sfl.strategy.presence import Presence

_WATCH_AGAIN_AFTER = 50
"""Steps between two watched ones at least, so that watching costs little where epochs are short."""


class ClientSteps:
    """Runs participants one after the other, each on its own weights.

    Args:
        module: The user's module.
        optimizer: The user's optimizer.
        precision: The trainer's precision, in whose context passes run.
        loss_scale: Scales losses for backward.
        algorithm: Says who owns what.
        aggregation: How participants become one model.
        link: Carries what crosses.
        cuts: Where every client cuts.
        presence: Says which participants count.
        server_inputs: Model inputs that may cross.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: Optimizer,
        precision: Precision,
        loss_scale: LossScale,
        *,
        algorithm: Algorithm,
        aggregation: Aggregation,
        link: Link,
        cuts: Cuts,
        presence: Presence,
        server_inputs: tuple[str, ...],
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._precision = precision
        self.loss_scale = loss_scale
        self._algorithm = algorithm
        self.aggregation = aggregation
        self._link = link
        self._moving = MovingCuts(cuts)
        self._presence = presence
        self._server_inputs = server_inputs
        self.splits: dict[str, Split] = {}
        self.federation: Federation | None = None
        self.rounds = 0
        self._saved: Mapping[str, Any] | None = None
        self._epoch = -1
        self._watched_step = -_WATCH_AGAIN_AFTER
        self._split_of: dict[tuple[str | None, tuple[str, ...]], Split] = {}
        self._seen: object = None
        self._lost_first: set[tuple[int, int]] = set()  # (round, client), before there is a federation
        self._trained_then: tuple[object, ...] = ()
        self._keeps_frozen = False

    @property
    def cuts(self) -> Cuts:
        """Where every client cuts."""
        return self._moving.now

    @property
    def shares_loss(self) -> bool:
        """Whether the server steps one copy on the participants' weighted mean loss."""
        return self.federation is not None and self.federation.placements.has_common

    def begin(self, batches: ClientBatches, epoch: int) -> None:
        """Begin a step: stop showing the global model, and begin its round if it is a new one."""
        self.loss_scale.begin()
        if epoch != self._epoch and batches.step >= self._watched_step + _WATCH_AGAIN_AFTER:
            self._epoch = epoch
            self._split_of = {}  # what the step does may change from epoch to epoch
        if self.federation is None and self._saved is not None:
            self._go_on(batches)
        if self.federation is None:
            if self._algorithm.uses_cut:
                if self._moving.due(batches.round):
                    self._moving.move()  # nothing is anywhere yet that could change hands
                return  # the first client's step will tell whose is what
            self._found({})
        assert self.federation is not None
        self.federation.resume()
        if self.federation.round not in (None, batches.round):
            # The last step of the round before was skipped.
            self._close(dataclasses.replace(batches, round=self.federation.round, step=batches.step - 1))
        if trained(self._module, self._optimizer) != self._trained_then or (
            self.federation.round is None and self._keeps_frozen
        ):
            self._place_again()
        for client in batches:
            if client in self.federation.participants and batches.begins_optimizer_step:
                self.federation.participants[client].drop_gradients()  # of a step that was not followed by theirs
        if self.federation.round == batches.round:
            return
        if cuts := self._moving.due(batches.round):
            self._move(cuts, batches)
        self.federation.open(batches.round, batches.participants, batches.step)
        for client, participant in self.federation.participants.items():
            participant.lost = (batches.round, client) in self._lost_first
        self._lost_first = set()
        self.rounds += 1

    def run(
        self, batches: ClientBatches, client: int, weight: float, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run one client's forward and backward pass.

        Args:
            batches: The step's batches.
            client: Whose turn it is.
            weight: Its weight in the server's loss.
            args: Positional arguments of `training_step`, the client's batch first.
            kwargs: Keyword arguments of `training_step`.

        Returns:
            What `training_step` returned; None if it skipped.
        """

        def forward() -> Any:
            with self._precision.train_step_context():
                return self._module.training_step(*args, **kwargs)

        federation = self.federation
        if federation is None:
            before = (Stage.BEFORE_FORWARD, Stage.AFTER_FORWARD)  # nothing is known yet that could be sent
            place = (batches.round, client)
            if place in self._lost_first or any(self._presence.is_lost(batches, client, stage) for stage in before):
                self._lost_first.add(place)
                return None
            return self._run_first(batches, client, weight, args[0], forward)
        participant = federation.participants[client]
        participant.lost |= self._presence.is_lost(batches, client, Stage.BEFORE_FORWARD)
        if participant.lost:
            return None
        if self._presence.is_lost(batches, client, Stage.AFTER_FORWARD):
            participant.lost = True
            self._run_in_vain(batches, client, args[0], forward)
            return None
        scale = weight if federation.placements.has_common else 1.0
        samples = len(batches.indices[client])
        with federation.installed(client, scale):
            skips = self._presence.skips_nonfinite
            buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()} if skips else {}
            if not self._algorithm.uses_cut:
                output = forward()
            elif (split := self._split_of.get((self.cuts.of(client), _form(args[0])))) is not None:
                output = pass_through(self._module, self._carrier(batches, client, scale, split), args[0], forward)
            else:
                output = self._run_watched(batches, client, scale, args[0], forward)
            if not self._presence.counts(output, client):
                for name, buffer in buffers.items() if output is not None else ():
                    self._module.get_buffer(name).copy_(buffer)  # what is left out leaves no running statistics
                return None
            self._backward(output, scale)
        participant.samples += samples
        participant.lost |= self._presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        return output

    def _run_in_vain(self, batches: ClientBatches, client: int, batch: object, forward: Callable[[], Any]) -> None:
        """Run a client's half and send what crosses, which the server will not use."""
        assert self.federation is not None
        cut = self.cuts.of(client)
        if cut is None:
            return  # without a cut nothing is sent before the upload
        split = self.splits[cut]
        carrier = self._carrier(batches, client, 1.0, split)
        with self.federation.installed(client):
            carrier.send_beside(batch)
            carrier.carry(halt(self._module, split, forward).smashed)

    def _run_watched(
        self, batches: ClientBatches, client: int, scale: float, batch: object, forward: Callable[[], Any]
    ) -> Any:
        """Run a forward pass watched: the first of an epoch, or the first with tensors of these names in the batch.

        Raises:
            CutError: The step needs another split than the run began with.
        """
        assert self.federation is not None
        watched = self._watch(client, batch, forward)
        if watched is None:
            return None
        if self._placements(watched.splits).by_cut != self._placements(self.splits).by_cut:
            raise CutError(
                f"cut={self.cuts.of(client)!r}: the training step has changed, and other weights lie before and after"
                " the cut than at the start of the run."
            )
        self._learn(watched, batches.step)
        watched.cross(self._carrier(batches, client, scale, watched.split))
        return watched.output

    def _watch(self, client: int, batch: object, forward: Callable[[], Any]) -> WatchedStep | None:
        cut = self.cuts.of(client)
        assert cut is not None
        return watched_step(self._module, cut, self.cuts, batch, self._server_inputs, forward)

    def _learn(self, watched: WatchedStep, step: int) -> None:
        """Note what a watched step showed."""
        self.splits.update(watched.splits)
        self._split_of.update({(cut, _form(watched.batch)): split for cut, split in watched.splits.items()})
        self._watched_step = step
        self._seen = watched.batch

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
        if self._seen is not None:
            self._check(cuts)
        self._moving.plan(cuts, round)

    def _check(self, cuts: Cuts) -> None:
        """Find out whose is what at these cuts, and raise a CutError if they cannot be."""
        found = self.splits | self._probed([name for name in cuts.names if name not in self.splits], self._seen)
        placements(self._module, self._algorithm, cuts, found)
        self.splits.update(found)

    def _move(self, cuts: Cuts, batches: ClientBatches) -> None:
        """Let clients cut where they were told to; what changes hands crosses the link."""
        assert self.federation is not None
        self._check(cuts)
        self._moving.move()
        self._split_of = {}  # what crosses at the new cuts shows when they are first used
        before = self.federation
        after = self._found(self.splits)
        before.hand_over(after, batches.round, batches.step)

    def _probed(self, names: Sequence[str], batch: object) -> dict[str, Split]:
        """Splits found on a copy of the module."""
        if not names:
            return {}
        with self._precision.train_step_context():
            search = probe(self._module, batch, self._server_inputs, self.cuts.last)
            return {name: search.cut(name).split for name in names}

    def state_dict(self) -> dict[str, Any]:
        """The round at hand, for checkpoints."""
        if self.federation is None:
            if self._saved is None:
                return {**self._moving.state_dict(), "lost_first": sorted(self._lost_first)}
            return {**self._saved, **(self._moving.planned() if self._moving.later else {})}
        return {
            **self._moving.state_dict(),
            "rounds": self.rounds,
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
        """
        assert self._saved is not None
        saved, self._saved = self._saved, None
        splits: dict[str, Split] = {}
        goes_on = True
        if self._algorithm.uses_cut:
            goes_on = self._moving.go_on(saved)
        if "federation" not in saved:  # nobody had had a loss yet
            self._lost_first = {(round, client) for round, client in saved["lost_first"]}
            return
        if self._algorithm.uses_cut:
            self._seen = copied_batch(batches[next(iter(batches))])
            splits = self._probed(self._moving.names, self._seen)
        # Participants may own what was frozen in mid-round.
        keep = Placements.from_state(saved["placements"], self.cuts.of) if goes_on and saved["placements"] else None
        federation = self._found(splits, keep)
        federation.load_state_dict(saved["federation"])
        for name in federation.placements.owned.parameters:
            self._module.get_parameter(name).grad = None  # of a layer that was the server's
        self.rounds = saved["rounds"]

    def _run_first(
        self, batches: ClientBatches, client: int, weight: float, batch: object, forward: Callable[[], Any]
    ) -> Any:
        """The very first pass: run it watched, learn the split, and only then make clients and let tensors cross."""
        if self.cuts.default is None:
            with self._precision.train_step_context():
                chosen = choose_cut(self._module, batch, self._server_inputs)
            self._moving.now = dataclasses.replace(self.cuts, default=chosen)
            rank_zero_info(f"cut=None: the default, {chosen!r}, is taken.")
        watched = self._watch(client, batch, forward)
        if watched is None:
            return None
        if not self._presence.counts(watched.output, client):
            for name, buffer in watched.buffers_before.items():
                self._module.get_buffer(name).data = buffer
            return None
        federation = self._found(watched.splits)
        self._learn(watched, batches.step)
        # The pass wrote the client's buffers into the module, whose own are the global ones.
        owned = federation.placements.owned.buffers
        written = {name: self._module.get_buffer(name).data for name in owned}
        for name in owned:
            self._module.get_buffer(name).data = watched.buffers_before[name]
        self.begin(batches, self._epoch)
        participant = federation.participants[client]
        for party in participant.parties:
            party.buffers.update({name: written[name] for name in party.buffers})
        scale = weight if federation.placements.has_common else 1.0
        watched.cross(self._carrier(batches, client, scale, watched.split))
        with federation.installed(client, scale):  # its weights still equal the global ones that the pass read
            self._backward(watched.output, scale)
        participant.samples += len(batches.indices[client])
        participant.lost |= self._presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        return watched.output

    def _place_again(self) -> None:
        """Say anew who owns what, in the middle of a round if need be: parameters were frozen or unfrozen.

        What participants own in a round and is frozen meanwhile stays theirs until it is averaged at the round's end.
        """
        assert self.federation is not None
        before = self.federation
        state = before.state_dict()
        self._found(self.splits, keep=before.placements if before.participants else None).load_state_dict(state)

    def _placements(self, splits: Mapping[str, Split]) -> Placements:
        return placements(self._module, self._algorithm, self.cuts, splits)

    def _found(self, splits: Mapping[str, Split], keep: Placements | None = None) -> Federation:
        self.splits.update(splits)
        self._trained_then = trained(self._module, self._optimizer)
        now = self._placements(splits)
        found = now if keep is None else now.keeping(keep)
        self._keeps_frozen = found.by_cut != now.by_cut
        self.federation = Federation(self._module, self._optimizer, found, self._link, self.aggregation)
        return self.federation

    def _carrier(self, batches: ClientBatches, client: int, scale: float, split: Split) -> LinkCarrier:
        return LinkCarrier(
            link=self._link,
            client=client,
            round=batches.round,
            step=batches.step,
            split=split,
            server_scale=scale * self.loss_scale.factor,
            client_scale=self.loss_scale.factor,
            widens=self.loss_scale.is_dynamic,
            origin=Origin(client, batches.indices[client]),
            loses_gradient=self._presence.is_lost(batches, client, Stage.BEFORE_GRADIENT),
        )

    def _backward(self, output: object, scale: float) -> None:
        # In a U-shape the loss is the client's own; the server scales its gradient when that arrives.
        weight = scale if self.cuts.last is None else 1.0
        self.loss_scale.backward(self._module, self._optimizer, output, weight)


def _form(batch: object) -> tuple[str, ...]:
    """The names of a batch's tensors: what crosses is known for batches of the same form."""
    return tuple(named_tensors(batch))
