"""Steps with codecs at the cuts: the split is found ahead, and what cannot be encoded is left out without a trace."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_sfl.clients import Participant, Shard
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.codecs.codec import NotFiniteError
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.find_out import find_out
from lightning_sfl.strategy.first_step import SkippedStep
from lightning_sfl.strategy.merged_steps import MergedSteps
from lightning_sfl.strategy.step_logs import StepLogs


class EncodedSteps(ClientSteps):
    """Client by client. Whose is what is found on a copy of the module, once per epoch at most.

    What crosses is not what was computed, so a step cannot run first and cross afterwards. Where a client whose
    gradient cannot be encoded is to be left out, everybody's gradients are copied before each client's turn, which
    takes memory once more for the server's.
    """

    @override
    def _run_client(self, batches: ClientBatches, client: int, weight: float, forward: Callable[[], Any]) -> Any:
        try:
            find_out(self._rounds, batches, client)
        except SkippedStep:
            return None
        federation = self._rounds.federation
        participants = [] if federation is None else [federation.participants[client]]
        before = Before.of(self._module, participants) if self.presence.skips_nonfinite else None
        try:
            return super()._run_client(batches, client, weight, forward)
        except NotFiniteError as error:
            put_back_or_raise(before, error)
            return None


class EncodedMergedSteps(MergedSteps):
    """Merged. A cut gradient that cannot be encoded leaves out the whole step, as a loss does that is no number."""

    @override
    def run(
        self, batches: ClientBatches, args: Sequence[Any], kwargs: Mapping[str, Any], logs: StepLogs
    ) -> tuple[Any, float]:
        federation = self._rounds.federation
        participants = [] if federation is None else [federation.participants[client] for client in batches]
        before = Before.of(self._module, participants) if self.presence.skips_nonfinite else None
        try:
            return super().run(batches, args, kwargs, logs)
        except NotFiniteError as error:
            put_back_or_raise(before, error)
            return None, 1.0

    @override
    def _run_in_vain(self, batches: ClientBatches, client: int, forward: Callable[[], Any]) -> None:
        try:
            super()._run_in_vain(batches, client, forward)
        except NotFiniteError:
            if not self.presence.skips_nonfinite:
                raise


@dataclasses.dataclass(frozen=True)
class Before:
    """Gradients, buffers and counts of samples as they were, of the server and of participants."""

    module: nn.Module
    gradients: dict[nn.Parameter, Tensor]
    buffers: dict[str, Tensor]
    participants: list[tuple[Participant, int]]
    parties: list[tuple[Shard, dict[str, Tensor], dict[str, Tensor]]]

    @classmethod
    def of(cls, module: nn.Module, participants: Iterable[Participant]) -> "Before":
        """As they are now."""
        kept = list(participants)
        return cls(
            module,
            {parameter: parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None},
            _copies(dict(module.named_buffers())),
            [(participant, participant.samples) for participant in kept],
            [(p, _copies(p.gradients()), _copies(p.buffers)) for each in kept for p in each.parties],
        )

    def put_back(self) -> None:
        """As they were then."""
        for parameter in self.module.parameters():
            parameter.grad = self.gradients.get(parameter)
        for name, buffer in self.buffers.items():
            self.module.get_buffer(name).data.copy_(buffer)
        for participant, samples in self.participants:
            participant.samples = samples
        for party, gradients, buffers in self.parties:
            party.drop_gradients()
            party.put_gradients(gradients)
            for name, buffer in buffers.items():
                party.buffers[name].copy_(buffer)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def put_back_or_raise(before: Before | None, error: NotFiniteError) -> None:
    """Leave out what cannot be encoded, or raise the error where that is to stop the run."""
    if before is None:
        raise NotFiniteError(f"{error} nonfinite='skip' leaves such a client out of the step.") from error
    before.put_back()
