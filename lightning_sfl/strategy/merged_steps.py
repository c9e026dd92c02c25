"""One server pass over all clients' smashed data together, in place of one per client."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_sfl.attendance import Stage
from lightning_sfl.cut.batch import differing_value, named_tensors, record_count, replace_tensors
from lightning_sfl.cut.carrier import LinkCarrier
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.modes import Halted, Injected, halt, inject
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.random_state import RandomState
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.find_out import find_out
from lightning_sfl.strategy.first_step import SkippedStep
from lightning_sfl.strategy.outputs import without_graph
from lightning_sfl.strategy.silence import silent
from lightning_sfl.strategy.step_logs import StepLogs


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Half:
    """One client's half of a step, halted at the cut, and what arrived of it at the server."""

    halted: Halted
    carrier: LinkCarrier
    smashed: tuple[Tensor, ...]
    batch: Any
    buffers_before: dict[str, Tensor]

    @property
    def records(self) -> int:
        return record_count(self.batch)


class MergedSteps(ClientSteps):
    """Halts every participant at the cut, and runs the server once on what has arrived, as one batch.

    The server's layers see that batch: batch normalisation there uses its statistics. The loss is the module's own on
    it; a mean over samples weights clients by their batches. All halves are kept until the cut gradient comes, so
    memory grows with the sum of the participants' batches.
    """

    @override
    def begin(self, batches: ClientBatches, epoch: int) -> None:
        """Begin a step; whose is what is found ahead of it, on a copy of the module.

        Raises:
            ValueError: Clients' batches hold different tensors, which cannot become one batch.
        """
        super().begin(batches, epoch)
        first = batches[next(iter(batches))]
        for client in batches:
            try:
                find_out(self._rounds, batches, client)
            except SkippedStep:
                continue  # tells nothing
            break
        forms = {client: list(named_tensors(batches[client])) for client in batches}
        for client, form in forms.items():
            if form != list(named_tensors(first)):
                raise ValueError(
                    f"server_batching='merged': the batch of client {client} holds the tensors {form}, another's"
                    f" {list(named_tensors(first))}. Give batches of one form, or server_batching='per_client'."
                )
            if name := differing_value(first, batches[client]):
                raise ValueError(
                    f"server_batching='merged': {name!r} in the batch is no tensor and differs from client to client,"
                    " so it cannot become one batch's. Give a tensor, leave it out, or server_batching='per_client'."
                )

    @override
    def run(
        self, batches: ClientBatches, args: Sequence[Any], kwargs: Mapping[str, Any], logs: StepLogs
    ) -> tuple[Any, float]:
        """See :meth:`ClientSteps.run`."""
        federation = self._rounds.federation
        if federation is None or self._known.of(self._rounds.cuts.default, batches[next(iter(batches))]) is None:
            return None, 1.0  # everybody's step is skipped, as it was on the copy
        buffers_before = self._buffers_to_put_back(name for name, _ in self._module.named_buffers())
        halves: dict[int, _Half] = {}
        for client in batches:
            logs.begin_client(batches[client])
            half = self._run_half(batches, client, self._forward(batches[client], args, kwargs))
            logs.end_client(len(batches.indices[client]))
            if half is not None:
                halves[client] = half
        if not halves:
            return None, 1.0
        injected = self._run_server(halves, lambda batch: self._forward(batch, args, kwargs)(), logs)
        if not self.presence.counts(injected.output, list(halves)):
            if injected.output is not None:
                self._put_back(buffers_before)
                for client, half in halves.items():
                    with federation.installed(client):
                        self._put_back(half.buffers_before)
            return None, 1.0
        self._backward(injected.output, 1.0)
        gradients = _shared_out([tensor.grad for tensor in injected.received], halves)
        records = sum(half.records for half in halves.values())
        for client, half in halves.items():
            scale = half.records / records * self.loss_scale.factor
            participant = federation.participants[client]
            with federation.installed(client):
                half.halted.backward(
                    dataclasses.replace(half.carrier, server_scale=scale).carry_back(gradients[client])
                )
            participant.samples += len(batches.indices[client])
            participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        return without_graph(injected.output), 1.0

    def _run_half(self, batches: ClientBatches, client: int, forward: Callable[[], Any]) -> _Half | None:
        """Run one client's half and send what crosses; None if there is nothing that the server is to use."""
        assert self._rounds.federation is not None
        participant = self._rounds.federation.participants[client]
        if self._is_gone(batches, client, participant, forward):
            return None
        split = self._known.of(self._rounds.cuts.default, batches[client])
        assert split is not None
        returned: list[Any] = []
        with self._rounds.federation.installed(client):
            buffers = self._buffers_to_put_back(split.client_buffers)
            try:
                halted = halt(self._module, split, lambda: returned.append(forward()))
            except CutError:
                if returned == [None]:  # skipped before the cut
                    return None
                raise
            if not self.presence.counts_smashed(halted.smashed, client, batches.step):
                self._put_back(buffers)
                return None
            carrier = self._carrier(batches, client, split, 1.0)
            carrier.send_beside(batches[client])
            smashed = carrier.carry(halted.smashed)
        return _Half(halted=halted, carrier=carrier, smashed=smashed, batch=batches[client], buffers_before=buffers)

    def _run_server(self, halves: Mapping[int, _Half], step: Callable[[Any], Any], logs: StepLogs) -> Injected:
        """Run the server's half on everything that has arrived, as one batch."""
        split = next(iter(halves.values())).carrier.split
        _check_rows(halves)
        smashed = [
            _concatenated(f"smashed data {place}", {client: half.smashed[place] for client, half in halves.items()})
            for place in range(len(split.smashed))
        ]
        batch = _merged_batch(halves)
        logs.begin_client(batch)
        with _silent_until(self._module, split.cut):
            injected = inject(self._module, split, step, batch, smashed, random_state=RandomState.capture())
        logs.end_client(sum(half.records for half in halves.values()))
        return injected


def _check_rows(halves: Mapping[int, _Half]) -> None:
    """Raise a ValueError if smashed data have no row per record: one below the other they would be another batch."""
    for client, half in halves.items():
        for place, tensor in enumerate(half.smashed):
            if tensor.ndim == 0 or tensor.shape[0] != half.records:
                raise ValueError(
                    f"server_batching='merged': smashed data {place} of client {client} have the shape"
                    f" {tuple(tensor.shape)} for a batch of {half.records}; a row per record is needed (batch first)."
                    " Cut elsewhere, or give server_batching='per_client'."
                )


def _merged_batch(halves: Mapping[int, _Half]) -> Any:
    """A batch of all clients' records: what crossed is theirs, what is private is blank."""
    first = next(iter(halves.values()))
    records = sum(half.records for half in halves.values())
    merged: dict[str, Tensor] = {}
    for name, tensor in named_tensors(first.batch).items():
        tensors = {client: named_tensors(half.batch)[name] for client, half in halves.items()}
        per_record = tensor.ndim > 0 and tensor.shape[0] == first.records
        if name not in first.carrier.split.crossing:
            merged[name] = tensor.new_zeros((records, *tensor.shape[1:])) if per_record else torch.zeros_like(tensor)
        elif per_record:
            merged[name] = _concatenated(repr(name), tensors)
        elif all(torch.equal(tensor, other) for other in tensors.values()):
            merged[name] = tensor
        else:
            raise ValueError(
                f"server_batching='merged': {name!r} holds no row per record and differs from client to client, so it"
                " cannot become one batch's. Give server_batching='per_client'."
            )
    return replace_tensors(first.batch, merged)


def _concatenated(what: str, tensors: Mapping[int, Tensor]) -> Tensor:
    shapes = {client: tuple(tensor.shape[1:]) if tensor.ndim else None for client, tensor in tensors.items()}
    if None in shapes.values() or len(set(shapes.values())) > 1:
        raise ValueError(
            f"server_batching='merged': {what} cannot be concatenated; per record their shapes are {shapes} by client."
            " Pad batches to one length, or give server_batching='per_client'."
        )
    return torch.cat(list(tensors.values()))


def _shared_out(
    gradients: Sequence[Tensor | None], halves: Mapping[int, _Half]
) -> dict[int, tuple[Tensor | None, ...]]:
    """Each client's rows of the gradients of what was merged."""
    shares: dict[int, list[Tensor | None]] = {client: [] for client in halves}
    for place, gradient in enumerate(gradients):
        sizes = [half.smashed[place].shape[0] for half in halves.values()]
        rows = [None] * len(sizes) if gradient is None else gradient.split(sizes)
        for client, own in zip(halves, rows, strict=True):
            shares[client].append(own)
    return {client: tuple(own) for client, own in shares.items()}


@contextmanager
def _silent_until(module: nn.Module, cut: str) -> Iterator[None]:
    """Let nothing be logged before the cut: the clients have logged it, on their own batches."""
    with silent(module) as speak:
        handle = module.get_submodule(cut).register_forward_hook(lambda *_: speak())
        try:
            yield
        finally:
            handle.remove()
