"""The clients' forward and backward passes within one training step, and the rounds they belong to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import Aggregation
from lightning_sfl.algorithms.federation import Federation
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.cut.find import loss_of
from lightning_sfl.cut.modes import PassHook
from lightning_sfl.cut.split import Split
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.link import Link
from lightning_sfl.link.log import Origin
from lightning_sfl.link.message import MessageKind
from lightning_sfl.strategy.first_step import choose_cut, probe, watched_step


class ClientSteps:
    """Runs participants one after the other, each on its own weights.

    Args:
        module: The user's module.
        optimizer: The user's optimizer.
        precision: The trainer's precision, in whose context passes run.
        algorithm: Says who owns what.
        aggregation: How participants become one model.
        link: Carries what crosses.
        cut: Name of the cut module; None for the default, or for an algorithm without a cut.
        server_inputs: Model inputs that may cross.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: Optimizer,
        precision: Precision,
        *,
        algorithm: Algorithm,
        aggregation: Aggregation,
        link: Link,
        cut: str | None,
        server_inputs: tuple[str, ...],
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._precision = precision
        self._algorithm = algorithm
        self.aggregation = aggregation
        self._link = link
        self._cut = cut
        self._server_inputs = server_inputs
        self.split: Split | None = None
        self.federation: Federation | None = None
        self.rounds = 0
        self._saved: Mapping[str, Any] | None = None

    @property
    def shares_loss(self) -> bool:
        """Whether the server steps one copy on the participants' weighted mean loss."""
        return self.federation is not None and self.federation.placement.has_common

    def begin(self, batches: ClientBatches) -> None:
        """Begin a step: stop showing the global model, and begin its round if it is a new one."""
        if self.federation is None:
            if self._saved is not None:
                self._go_on(batches)
            elif self._algorithm.uses_cut:
                return  # the first client's step will tell whose is what
            else:
                self._found(None)
        assert self.federation is not None
        self.federation.resume()
        if self.federation.round == batches.round:
            return
        if self.federation.round is not None:
            self.federation.close(batches.step)  # the last step of the round before was skipped
        self.federation.open(batches.round, batches.participants, batches.step)
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
            return self._run_first(batches, client, weight, args[0], forward)
        scale = weight if federation.placement.has_common else 1.0
        with federation.installed(client):
            if self.split is None:
                output = forward()
            else:
                carrier = self._carrier(batches, client, scale, self.split)
                self._send_side_tensors(carrier, args[0], self.split)
                hook = PassHook(self._module, self.split.cut, self.split.smashed)
                with hook.forward(carrier):
                    output = forward()
                if output is not None:  # a step that is skipped may be skipped before the cut
                    hook.check_visits()
            if output is not None:
                self._backward(output, scale)
                federation.participants[client].samples += len(batches.indices[client])
        return output

    def finish(self, batches: ClientBatches) -> None:
        """End a step whose parties have stepped: aggregate if it closes its round."""
        if self.federation is not None and batches.closes_round:
            self.federation.close(batches.step)

    def state_dict(self) -> dict[str, Any] | None:
        """The round at hand, for checkpoints; None before the first step of a run that does not go on with another."""
        if self.federation is None:
            return None if self._saved is None else dict(self._saved)
        return {"cut": self._cut, "rounds": self.rounds, "federation": self.federation.state_dict()}

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
        split: Split | None = None
        if self._algorithm.uses_cut:
            self._cut = self._cut or self._saved["cut"]
            assert self._cut is not None
            batch = batches[next(iter(batches))]
            with self._precision.train_step_context():
                split = probe(self._module, batch, self._server_inputs).split(self._cut)
        federation = self._found(split)
        federation.load_state_dict(self._saved["federation"])
        self.rounds = self._saved["rounds"]
        self._saved = None

    def _run_first(
        self, batches: ClientBatches, client: int, weight: float, batch: object, forward: Callable[[], Any]
    ) -> Any:
        """The very first pass: run it watched, learn the split, and only then make clients and let tensors cross."""
        if self._cut is None:
            with self._precision.train_step_context():
                self._cut = choose_cut(self._module, batch, self._server_inputs)
            rank_zero_info(f"cut=None: the default, {self._cut!r}, is taken.")
        watched = watched_step(self._module, self._cut, batch, self._server_inputs, forward)
        if watched is None:
            return None
        federation = self._found(watched.split)
        # The pass wrote the client's buffers into the module, whose own are the global ones.
        owned = {*federation.placement.client.buffers, *federation.placement.replica.buffers}
        written = {name: self._module.get_buffer(name).data for name in owned}
        for name in owned:
            self._module.get_buffer(name).data = watched.buffers_before[name]
        self.begin(batches)
        participant = federation.participants[client]
        for party in participant.parties:
            party.buffers.update({name: written[name] for name in party.buffers})
        scale = weight if federation.placement.has_common else 1.0
        carrier = self._carrier(batches, client, scale, watched.split)
        self._send_side_tensors(carrier, batch, watched.split)
        tensor_places = sorted(watched.split.form.tensors)
        watched.carrier.cross(carrier, tuple(tensor_places.index(place) for place in watched.split.smashed))
        with federation.installed(client):  # its weights still equal the global ones that the forward pass read
            self._backward(watched.output, scale)
        participant.samples += len(batches.indices[client])
        return watched.output

    def _found(self, split: Split | None) -> Federation:
        self.split = split
        placement = self._algorithm.place(self._module, split)
        cut = None if split is None else split.cut
        self.federation = Federation(self._module, self._optimizer, placement, self._link, cut, self.aggregation)
        return self.federation

    def _carrier(self, batches: ClientBatches, client: int, scale: float, split: Split) -> LinkCarrier:
        return LinkCarrier(
            self._link,
            client=client,
            round=batches.round,
            step=batches.step,
            cut=split.cut,
            gradient_scale=scale,
            origin=Origin(client, batches.indices[client]),
        )

    @staticmethod
    def _send_side_tensors(carrier: LinkCarrier, batch: object, split: Split) -> None:
        """Send what the server half reads of the batch besides the smashed data: labels, masks, allowed inputs."""
        if not split.crossing:
            return
        tensors = named_tensors(batch)
        by_kind: dict[str, dict[str, Tensor]] = {}
        for name, crossing in split.crossing.items():
            by_kind.setdefault(crossing.value, {})[name] = tensors[name]
        for kind, payload in by_kind.items():
            carrier.send_up(MessageKind(kind), payload)

    def _backward(self, output: object, scale: float) -> None:
        loss = loss_of(output)
        self._precision.backward(loss if scale == 1 else loss * scale, self._module, self._optimizer)


def together(outputs: Mapping[int, Any], weights: Mapping[int, float]) -> Any:
    """One training step output out of the participants', whose weights add up to 1."""
    if not outputs:
        return None
    losses = [loss_of(output).detach() * weights[client] for client, output in outputs.items()]
    loss = torch.stack(losses).sum(0) if len(losses) > 1 else losses[0]
    if not any(isinstance(output, Mapping) for output in outputs.values()):
        return loss
    merged: dict[str, Any] = {"loss": loss}
    for client, output in outputs.items():
        for key, value in output.items():
            if key != "loss":
                merged.setdefault(key, {})[client] = value
    return merged
