"""Steps of clients that run forward only, and that seeds and scalars keep alike."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.attendance import Stage
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.codecs.codec import NotFiniteError
from lightning_sfl.link.log import Origin
from lightning_sfl.link.message import SERVER, MessageKind, client_name
from lightning_sfl.optimizers import pack_states
from lightning_sfl.strategy.client_steps import ClientSteps
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.strategy.encoded_steps import Before, put_back_or_raise
from lightning_sfl.strategy.find_out import find_out
from lightning_sfl.strategy.first_step import SkippedStep
from lightning_sfl.strategy.forward_only import fixed_buffers, without_graph_of
from lightning_sfl.strategy.outputs import together
from lightning_sfl.strategy.step_logs import StepLogs
from lightning_sfl.strategy.surrogates import Turn
from lightning_sfl.zeroth_order.directions import Directions, Distribution, draw_seeds
from lightning_sfl.zeroth_order.history import PairHistory

_KEPT_BYTE = 2**28
"""As much of a step's directions is kept, since all participants of a simulation use the same ones."""


class ForwardOnlySteps(ClientSteps):
    """Runs participants one after the other, and has all clients make one and the same step in the end.

    The server sends the seeds of the step's directions. Each client moves its weights along them and uploads a scalar
    for each; the server sends back their weighted means, of which every client makes the same estimate.

    With different cuts, a layer that some clients hold and the server computes for others gets one estimate for all:
    the server, which knows the seeds, takes the slopes of its own gradient along the same directions. There is a mean
    for every cut then, over the clients that hold the layers up to it and the server's share for those that do not; a
    client is sent those up to its own cut. (Our own extension of HO-SFL, arXiv 2603.14773, which has one cut.)

    Args:
        algorithm: The algorithm.
        seed: Seeds the directions.
        *args: See :class:`ClientSteps`.
        **kwargs: See :class:`ClientSteps`.
    """

    def __init__(self, *args: Any, algorithm: ForwardOnly, seed: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._algorithm = algorithm
        self._seed = seed
        self._history = PairHistory()
        self._has_warned = False
        self._trained: set[str] = set()
        self._cuts_then: Cuts | None = None
        self._held_then: Mapping[str | None, tuple[str, ...]] = {}

    @override
    def begin(self, batches: ClientBatches, epoch: int) -> None:
        """Begin a step; whose is what is found ahead of it, and who was away is told what it missed."""
        super().begin(batches, epoch)
        for client in batches:
            try:
                find_out(self._rounds, batches, client)
            except SkippedStep:
                continue  # tells nothing
        if self._rounds.federation is None:
            return
        self._note_moved_cuts()
        for client, participant in self._rounds.federation.participants.items():
            if not participant.lost:
                self._catch_up(batches, client)

    @override
    def run(
        self, batches: ClientBatches, args: Sequence[Any], kwargs: Mapping[str, Any], logs: StepLogs
    ) -> tuple[Any, float]:
        """See :meth:`ClientSteps.run`."""
        if self._rounds.federation is None:
            return None, 1.0  # everybody's step is skipped, as it was on the copy
        sizes = batches.sizes()
        weights = self._rounds.aggregation.loss_weights(sizes)
        largest = max(weights.values())
        seeds = draw_seeds(self._seed, batches.step, self._algorithm.probes)
        distribution = Distribution(self._algorithm.distribution)
        directions = Directions(self._module, seeds, distribution, keeps_byte=_KEPT_BYTE)
        outputs: dict[int, Any] = {}
        scalars: dict[int, Tensor] = {}
        for client in batches:
            logs.begin_client(batches[client])
            forward = self._forward(batches[client], args, kwargs)
            output, own = self._run_turn(batches, client, weights[client] / largest, forward, seeds, directions)
            logs.end_client(sizes[client])
            if output is not None:
                outputs[client] = output
            if own is not None:
                scalars[client] = own
        if not outputs:
            return None, 1.0
        shares = {client: weights[client] for client in outputs}
        slopes = self._slopes_at_server(directions, largest)
        if scalars or any(any(row) for row in slopes):  # before a far cut there may be the server's slopes alone
            means = self._means(scalars, shares, slopes)
            self._warn_of_zeros(means)
            self._tell(batches, seeds, means)
            self._estimate(directions, means)
        present = sum(shares.values())
        output = together(outputs, {client: share / present for client, share in shares.items()})
        return output, 1.0 if not self._algorithm.server_backpropagates else largest / present

    def _run_turn(
        self,
        batches: ClientBatches,
        client: int,
        weight: float,
        forward: Callable[[], Any],
        seeds: Tensor,
        directions: Directions,
    ) -> tuple[Any, Tensor | None]:
        """Run one client's turn; returns what `training_step` returned, and the scalars that the server has of it."""
        federation = self._rounds.federation
        assert federation is not None
        participant = federation.participants[client]
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_FORWARD)
        split = self._known.of(self._rounds.cuts.of(client), batches[client])
        if participant.lost or split is None:  # its step is skipped, as it was on the copy
            return None, None
        names = federation.placements.of(client).alike.parameters
        if names:
            self._send(batches, client, MessageKind.SEEDS, {"seeds": seeds}, uplink=False)
        if self._is_gone(batches, client, participant, forward):
            return None, None
        buffers = self._buffers_to_put_back(name for name, _ in self._module.named_buffers())
        others = [name for name, own in self._module.named_parameters() if own.requires_grad and name not in names]
        turn = Turn(
            module=self._module,
            algorithm=self._algorithm,
            directions=directions,
            names=names,
            others=tuple(others),
            fixed=self._fixed,
            precision=self._precision,
            carrier=self._carrier(batches, client, split, weight),
            batch=batches[client],
            forward=forward,
            trains_on=lambda output: self.presence.counts(output, [client]),
            backward=lambda output: self._backward(output, weight),
        )
        before = Before.of(self._module, [participant]) if self.presence.skips_nonfinite else None
        try:
            output, own = turn.run()
        except NotFiniteError as error:
            put_back_or_raise(before, error)
            return None, None
        if output is None:
            self._put_back(buffers)
            return None, None
        participant.samples += len(batches.indices[client])
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_GRADIENT)
        if own is None or participant.lost or not self.presence.counts_scalars(own, client, batches.step):
            return output, None
        scalars = torch.tensor(own, dtype=torch.float32)
        if not self._algorithm.client_has_scalars:
            return output, scalars  # the server has computed them
        participant.lost |= self.presence.is_lost(batches, client, Stage.BEFORE_UPLOAD)
        if participant.lost:
            return output, None
        origin = Origin(client, batches.indices[client])
        sent = self._send(batches, client, MessageKind.SCALARS, {"scalars": scalars}, uplink=True, origin=origin)
        return output, sent["scalars"]

    @override
    def _run_in_vain(self, batches: ClientBatches, client: int, forward: Callable[[], Any]) -> None:
        assert self._rounds.federation is not None
        names = self._rounds.federation.placements.of(client).alike.parameters
        with without_graph_of(self._module, names), fixed_buffers(self._module, self._fixed):
            super()._run_in_vain(batches, client, forward)

    @property
    def _fixed(self) -> tuple[str, ...]:
        """The buffers that some client holds, or everybody's if nobody backpropagates; the same for all clients."""
        if not self._algorithm.server_backpropagates:
            return tuple(name for name, _ in self._module.named_buffers())
        splits = [self._known.splits[cut] for cut in self._rounds.cuts.names]
        held = {name for split in splits for name in {*split.client_buffers} - {*split.server_buffers}}
        if self._algorithm.head is not None:
            head = self._module.get_submodule(self._algorithm.head)
            held |= {f"{self._algorithm.head}.{name}" for name, _ in head.named_buffers()}
        return tuple(sorted(held))

    @property
    def _tiers(self) -> list[tuple[str | None, tuple[str, ...]]]:
        """The different cuts, the nearest first, each with the parameters that lie behind the one before."""
        assert self._rounds.federation is not None
        by_cut = self._rounds.federation.placements.by_cut
        in_order = sorted(by_cut, key=lambda cut: len(by_cut[cut].alike.parameters))
        tiers: list[tuple[str | None, tuple[str, ...]]] = []
        earlier: set[str] = set()
        for cut in in_order:
            tiers.append((cut, tuple(name for name in by_cut[cut].alike.parameters if name not in earlier)))
            earlier.update(by_cut[cut].alike.parameters)
        return tiers

    def _depth(self, client: int) -> int:
        """How many of the different cuts are not behind a client's own."""
        return [cut for cut, _ in self._tiers].index(self._rounds.cuts.of(client)) + 1

    def _slopes_at_server(self, directions: Directions, largest: float) -> list[list[float]]:
        """The slopes of the server's own gradient along the directions, for the layers up to every cut (T, P).

        Its gradient there is the sum over the clients for which it computes those layers, by their weights. It is taken
        out of the server's gradients: those layers are stepped with the clients' estimate.
        """
        found: list[list[float]] = []
        for _, names in self._tiers:
            parameters = {name: self._module.get_parameter(name) for name in names}
            gradients = {name: own.grad for name, own in parameters.items() if own.grad is not None}
            for own in parameters.values():
                own.grad = None
            scale = largest / self.loss_scale.factor
            found.append([scale * slope for slope in directions.slopes(gradients)])
        return found

    def _means(
        self, scalars: Mapping[int, Tensor], shares: Mapping[int, float], slopes: Sequence[Sequence[float]]
    ) -> Tensor:
        """The weighted means along every direction, for the layers up to every cut, (T, P)."""
        depths = {client: self._depth(client) for client in shares}
        rows: list[Tensor] = []
        together = not self._algorithm.server_backpropagates  # both sides have moved, whoever holds a layer
        for tier, at_server in enumerate(slopes):
            holders = [client for client in scalars if together or depths[client] > tier]
            served = [client for client in shares if not together and depths[client] <= tier]
            total = sum(shares[client] for client in (*holders, *served))
            row = torch.tensor(at_server, dtype=torch.float64) * self._algorithm.mu
            for client in holders:
                row += shares[client] * scalars[client].double().cpu()
            rows.append(row / total if total else row)  # nobody: nothing is trained there
        return torch.stack(rows).float()

    def _warn_of_zeros(self, means: Tensor) -> None:
        """Warn once of moves that change nothing: clients would not be trained."""
        if not self._has_warned and not bool(means.any()):
            self._has_warned = True
            rank_zero_warn(
                f"All scalars of a step are 0: moving the clients' weights by mu={self._algorithm.mu:g} changes nothing"
                " that reaches the loss. Give a larger mu if that goes on."
            )

    def _tell(self, batches: ClientBatches, seeds: Tensor, means: Tensor) -> None:
        """Send the means to everybody who is there."""
        assert self._rounds.federation is not None
        told: list[int] = []
        for client, participant in self._rounds.federation.participants.items():
            if not participant.lost and self._rounds.federation.placements.of(client).alike.parameters:
                payload = {"scalars": means[: self._depth(client)]}
                self._send(batches, client, MessageKind.SCALARS, payload, uplink=False)
                told.append(client)
        trained = [depth for depth, (_, names) in enumerate(self._tiers, start=1) if names]
        if trained:
            self._history.append(seeds, means, trained[0], told)
            self._history.forget_known(self._rounds.cuts.num_clients)

    def _estimate(self, directions: Directions, means: Tensor) -> None:
        """Make everybody's gradients of what they were told."""
        assert self._rounds.federation is not None
        factor, mu = self.loss_scale.factor, self._algorithm.mu
        for (_, names), row in zip(self._tiers, means.tolist(), strict=True):
            if not any(row):
                continue  # nothing was learnt of these layers, which stay as they are
            slopes = [value / mu for value in row]
            estimated = {name: directions.estimate(name, slopes) for name in names}
            self._rounds.federation.alike.add_gradients(_times(estimated, factor))
        if not self._algorithm.server_backpropagates:
            held = {name for _, names in self._tiers for name in names}
            slopes = [value / mu for value in means[0].tolist()]
            for name, parameter in self._module.named_parameters():
                if parameter.requires_grad and name not in held:
                    parameter.grad = _times({name: directions.estimate(name, slopes)}, factor)[name]

    def _note_moved_cuts(self) -> None:
        """When cuts have moved, note who is to be sent what."""
        assert self._rounds.federation is not None
        placements, cuts = self._rounds.federation.placements, self._rounds.cuts
        self._trained |= {name for name, own in self._module.named_parameters() if own.requires_grad}
        held_now: dict[str | None, tuple[str, ...]] = {}
        for cut, placement in placements.by_cut.items():
            once = self._trained.intersection(placements.before_cut[cut])  # and frozen by now, perhaps
            held_now[cut] = tuple(sorted({*placement.alike.names, *once}))
        if self._cuts_then is not None and cuts != self._cuts_then:
            then, held = self._cuts_then, self._held_then
            self._history.move(
                cuts.num_clients, lambda client: held[then.of(client)], lambda client: held_now[cuts.of(client)]
            )
        self._cuts_then, self._held_then = cuts, held_now

    def _catch_up(self, batches: ClientBatches, client: int) -> None:
        """Send a client what it has missed."""
        assert self._rounds.federation is not None
        if lacks := self._history.lacks(client):
            tensors = {name: self._module.state_dict()[name] for name in lacks}
            self._send(batches, client, MessageKind.MOVED_LAYERS, tensors, uplink=False)
            parameters = {name: own for name, own in self._module.named_parameters() if name in lacks}
            states = {name: state for name, own in parameters.items() if (state := self._optimizer.state.get(own))}
            if states:
                self._send(batches, client, MessageKind.OPTIMIZER_STATE, pack_states(states), uplink=False)
        elif missed := self._history.missed(client, self._depth(client)):  # also of layers that are frozen by now
            self._send(batches, client, MessageKind.MISSED_PAIRS, missed, uplink=False)
        self._history.told(client)

    def _send(
        self,
        batches: ClientBatches,
        client: int,
        kind: MessageKind,
        tensors: Mapping[str, Tensor],
        *,
        uplink: bool,
        origin: Origin | None = None,
    ) -> dict[str, Tensor]:
        ends = (client_name(client), SERVER) if uplink else (SERVER, client_name(client))
        return self._link.send(
            kind,
            sender=ends[0],
            receiver=ends[1],
            round=batches.round,
            step=batches.step,
            cut=self._rounds.cuts.of(client),
            tensors=tensors,
            origin=origin,
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        """What clients were told, for checkpoints."""
        cuts = None if self._cuts_then is None else dataclasses.asdict(self._cuts_then)
        return {
            "history": self._history.state_dict(),
            "cuts": cuts,
            "held": dict(self._held_then),
            "trained": sorted(self._trained),
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._history.load_state_dict(state["history"])
        self._cuts_then = None if state["cuts"] is None else Cuts(**state["cuts"])
        self._held_then, self._trained = state["held"], set(state["trained"])


def _times(tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    return dict(tensors) if factor == 1 else {name: tensor * factor for name, tensor in tensors.items()}
