"""The clients' forward and backward passes within one training step, client by client."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.optim import Optimizer

from lightning_sfl.attendance import Stage
from lightning_sfl.clients import Participant
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.cut.modes import halt
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.strategy.first_step import SkippedStep, pass_through
from lightning_sfl.strategy.loss_scale import LossScale
from lightning_sfl.strategy.outputs import together
from lightning_sfl.strategy.presence import Presence
from lightning_sfl.strategy.rounds import Rounds
from lightning_sfl.strategy.step_logs import StepLogs


class ClientSteps:
    """Runs participants one after the other, each on its own weights, each through its own half and the server's.

    Args:
        module: The user's module.
        optimizer: The user's optimizer.
        precision: The trainer's precision, in whose context passes run.
        loss_scale: Scales losses for backward.
        link: Carries what crosses.
        rounds: Who owns what in the round at hand.
        presence: Says which participants count.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: Optimizer,
        precision: Precision,
        *,
        loss_scale: LossScale,
        link: Link,
        rounds: Rounds,
        presence: Presence,
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._precision = precision
        self.loss_scale = loss_scale
        self._link = link
        self._rounds = rounds
        self._known = rounds.known
        self.presence = presence

    def begin(self, batches: ClientBatches, epoch: int) -> None:
        """Begin a step, and its round if it is a new one."""
        self.loss_scale.begin()
        self._known.begin(epoch, batches.step)
        self._rounds.begin(batches)

    def run(
        self, batches: ClientBatches, args: Sequence[Any], kwargs: Mapping[str, Any], logs: StepLogs
    ) -> tuple[Any, float]:
        """Run everybody's forward and backward pass.

        Args:
            batches: The step's batches.
            args: Further positional arguments of `training_step`.
            kwargs: Keyword arguments of `training_step`.
            logs: Told which client's values are logged.

        Returns:
            What Lightning expects of a training step, None if nobody had a loss, and by what the server's gradients,
            sums over the participants, are to be multiplied.
        """
        sizes = batches.sizes()
        weights = self._rounds.aggregation.loss_weights(sizes)
        largest = max(weights.values())  # losses are weighted relative to it: clients with equal batches need no scale
        outputs: dict[int, Any] = {}
        for client in batches:
            logs.begin_client(batches[client])
            forward = self._forward(batches[client], args, kwargs)
            output = self._run_client(batches, client, weights[client] / largest, forward)
            logs.end_client(sizes[client])
            if output is not None:
                outputs[client] = output
        present = sum(weights[client] for client in outputs)
        output = together(outputs, {client: weights[client] / present for client in outputs})
        return output, largest / present if outputs else 1.0

    def state_dict(self) -> dict[str, Any]:
        """What steps need of earlier ones, for checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""

    def _forward(self, batch: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
        def forward() -> Any:
            with self._precision.train_step_context():
                return self._module.training_step(batch, *args, **kwargs)

        return forward

    def _run_client(self, batches: ClientBatches, client: int, weight: float, forward: Callable[[], Any]) -> Any:
        """Run one client's forward and backward pass; returns what `training_step` returned, None if it skipped."""
        federation = self._rounds.federation
        if federation is None:
            before = (Stage.BEFORE_FORWARD, Stage.AFTER_FORWARD)  # nothing is known yet that could be sent
            place = (batches.round, client)
            lost = self._rounds.lost_first
            if place in lost or any(self.presence.is_lost(batches, client, stage) for stage in before):
                lost.add(place)
                return None
            return self._run_first(batches, client, weight, forward)
        participant = federation.participants[client]
        if self._is_gone(batches, client, participant, forward):
            return None
        scale = weight if federation.placements.has_common else 1.0
        batch, cut = batches[client], self._rounds.cuts.of(client)
        with federation.installed(client, scale):
            buffers = self._buffers_to_put_back(name for name, _ in self._module.named_buffers())
            if cut is None:
                output = forward()
            elif (split := self._known.of(cut, batch)) is not None:
                output = pass_through(self._module, self._carrier(batches, client, split, scale), batch, forward)
            else:
                output = self._run_watched(batches, client, scale, forward)
            if not self.presence.counts(output, [client]):
                if output is not None:
                    self._put_back(buffers)
                return None
            self._backward(output, scale)
        participant.samples += len(batches.indices[client])
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        return output

    def _is_gone(
        self, batches: ClientBatches, client: int, participant: Participant, forward: Callable[[], Any]
    ) -> bool:
        """Whether a client is lost before the server trains on what it sends; after its forward, it sends in vain."""
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_FORWARD)
        if not participant.lost and self.presence.is_lost(batches, client, Stage.AFTER_FORWARD):
            participant.lost = True
            self._run_in_vain(batches, client, forward)
        return participant.lost

    def _buffers_to_put_back(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The buffers as they are, where a client may be left out: it leaves no running statistics then."""
        if not self.presence.skips_nonfinite:
            return {}
        return {name: self._module.get_buffer(name).clone() for name in names}

    def _put_back(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in buffers.items():
            self._module.get_buffer(name).data.copy_(buffer)  # unseen by the graphs of others that wait for gradients

    def _run_in_vain(self, batches: ClientBatches, client: int, forward: Callable[[], Any]) -> None:
        """Run a client's half and send what crosses, which the server will not use."""
        assert self._rounds.federation is not None
        cut = self._rounds.cuts.of(client)
        if cut is None:
            return  # without a cut nothing is sent before the upload
        split = self._known.splits[cut]
        carrier = self._carrier(batches, client, split, 1.0)
        with self._rounds.federation.installed(client):
            carrier.send_beside(batches[client])
            carrier.carry(halt(self._module, split, forward).smashed)

    def _run_watched(self, batches: ClientBatches, client: int, scale: float, forward: Callable[[], Any]) -> Any:
        """Run a forward pass watched: the first of an epoch, or the first with tensors of these names in the batch.

        Raises:
            CutError: The step needs another split than the run began with.
        """
        cut = self._rounds.cuts.of(client)
        assert cut is not None
        watched = self._known.watch(cut, self._rounds.cuts, batches[client], forward)
        if watched is None:
            return None
        self._rounds.check_same(watched.splits, client)
        self._known.learn(watched.splits, watched.batch, batches.step)
        watched.cross(self._carrier(batches, client, watched.split, scale))
        return watched.output

    def _run_first(self, batches: ClientBatches, client: int, weight: float, forward: Callable[[], Any]) -> Any:
        """The very first pass: run it watched, learn the split, and only then make clients and let tensors cross."""
        try:
            self._rounds.choose_cut(batches[client])
        except SkippedStep:
            return None
        cut = self._rounds.cuts.of(client)
        assert cut is not None
        watched = self._known.watch(cut, self._rounds.cuts, batches[client], forward)
        if watched is None:
            return None
        if not self.presence.counts(watched.output, [client]):
            for name, buffer in watched.buffers_before.items():
                self._module.get_buffer(name).data = buffer
            return None
        federation = self._rounds.found(watched.splits)
        self._known.learn(watched.splits, watched.batch, batches.step)
        # The pass wrote the client's buffers into the module, whose own are the global ones.
        owned = federation.placements.owned.buffers
        written = {name: self._module.get_buffer(name).data for name in owned}
        for name in owned:
            self._module.get_buffer(name).data = watched.buffers_before[name]
        self._rounds.begin(batches)
        participant = federation.participants[client]
        for party in participant.parties:
            party.buffers.update({name: written[name] for name in party.buffers})
        scale = weight if federation.placements.has_common else 1.0
        watched.cross(self._carrier(batches, client, watched.split, scale))
        with federation.installed(client, scale):  # its weights still equal the global ones that the pass read
            self._backward(watched.output, scale)
        participant.samples += len(batches.indices[client])
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        return watched.output

    def _carrier(self, batches: ClientBatches, client: int, split: Split, scale: float) -> LinkCarrier:
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
            loses_gradient=self.presence.is_lost(batches, client, Stage.BEFORE_GRADIENT),
        )

    def _backward(self, output: object, scale: float) -> None:
        # In a U-shape the loss is the client's own; the server scales its gradient when that arrives.
        weight = scale if self._rounds.cuts.last is None else 1.0
        self.loss_scale.backward(self._module, self._optimizer, output, weight)
