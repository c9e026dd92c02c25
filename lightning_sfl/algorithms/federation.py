"""The federation: who takes part in the round at hand, what each of them owns, and how it becomes one model again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState
from lightning_sfl.algorithms.placement import Owned, Placement, Placements
from lightning_sfl.clients import AlikeShard, Participant, Shard
from lightning_sfl.link.link import Link
from lightning_sfl.link.message import FED_SERVER, SERVER, MessageKind, client_name
from lightning_sfl.optimizers import State, mean_state, mean_tensor, pack_states, unpack_states

Tensors = dict[str, Tensor]
Part = tuple[Tensors, dict[str, State]]
"""What a party owns: weights and buffers by name, optimizer state by parameter name."""


class Federation:
    """The participants of a round and the global model between rounds.

    The global weights are the module's own tensors, the global optimizer state of what clients own stands in the user's
    optimizer. Only participants cost memory; from round to round their tensors are used again.

    Args:
        module: The module.
        optimizer: The user's optimizer.
        placements: Who owns what.
        link: Carries broadcasts and updates.
        aggregation: How participants become one model.

    Attributes:
        alike: What all clients have alike at any time.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, placements: Placements, link: Link, aggregation: Aggregation
    ) -> None:
        self.placements = placements
        self.alike = AlikeShard(module, placements.alike.parameters, (), optimizer)
        self.round: int | None = None
        self.participants: dict[int, Participant] = {}
        self._module = module
        self._optimizer = optimizer
        self._link = link
        self._aggregation = aggregation
        self._owned = placements.owned
        self._kept: dict[int, dict[str, State]] = {}
        self._frozen: dict[str, set[int]] = {}  # what was averaged and then frozen, and who has it as it is now
        self._idle: dict[str | None, list[Participant]] = {}
        self._reading: list[tuple[str, Tensor, Tensor]] | None = None
        self._reading_state: dict[str, State] = {}

    def open(self, round: int, clients: Sequence[int], step: int) -> None:
        """Begin a round: send the global model to its participants."""
        assert self._reading is None
        assert not self.participants
        self.round = round
        averages = self._aggregation.client_optimizer_state is ClientOptimizerState.AVERAGE
        parts: dict[str | None, tuple[Part, Part]] = {}
        for client in clients:
            cut = self.placements.cut_of(client)
            if cut not in parts:
                placement = self.placements.of(client)
                parts[cut] = self._global(placement.client), self._global(placement.replica)
            shard, replica = parts[cut]
            idle = self._idle.get(cut)
            participant = idle.pop() if idle else self._new_participant(self.placements.of(client))
            participant.client, participant.samples, participant.lost = client, 0, False
            sent = {**shard[0], **self._unknown_to(client)}
            tensors, states = self._send((sent, shard[1]), client, step, uplink=False)
            if not averages:  # of layers that a client has come to own meanwhile, the state is the global one
                kept = self._kept.get(client)
                states, stays = ({}, {}) if kept is None else (shard[1] | kept, replica[1] | kept)
            else:
                stays = replica[1]
            participant.shard.load(tensors, states)
            participant.replica.load(replica[0], stays)  # it stays on the server
            self.participants[client] = participant

    def _unknown_to(self, client: int) -> Tensors:
        """What a client computes with and is not trained any more, as it was averaged last; it is sent only once."""
        before_cut = self.placements.before_cut.get(self.placements.cut_of(client), ())
        names = [name for name, known in self._frozen.items() if client not in known and name in before_cut]
        for name in names:
            self._frozen[name].add(client)
        return {name: self._tensor(name).detach() for name in names}

    def close(self, step: int) -> None:
        """End the round: average what the participants own. Nobody present: nothing changes."""
        present = self._present()
        parts = [_together(self._send(_part(p.shard), p.client, step, uplink=True), _part(p.replica)) for p in present]
        tensors, states = self._mean(present, parts)
        with torch.no_grad():
            for name, tensor in tensors.items():
                held = self._tensor(name)
                if held.is_inference():  # a buffer that validation assigned anew
                    self._put_buffer(name, tensor)
                else:
                    held.copy_(tensor)
        rule = self._aggregation.client_optimizer_state
        if rule is ClientOptimizerState.KEEP:
            for participant, part in zip(present, parts, strict=True):
                self._kept[participant.client] = part[1]
        for name, state in states.items():
            self._set_state(name, {} if rule is ClientOptimizerState.RESET else state)
        for client, participant in self.participants.items():
            self._idle.setdefault(self.placements.cut_of(client), []).append(participant)
        self.participants = {}
        self.round = None

    def hand_over(self, after: "Federation", round: int, step: int) -> None:
        """Hand the global model over to a federation with other cuts, between rounds.

        Layers that become common go to the server, layers that cease to be go to the federation server.
        """
        assert not self.participants
        after._kept = self._kept
        after._frozen = self._frozen
        self.round = round
        before, now = set(self._owned.names), set(after._owned.names)
        with_state = self._aggregation.client_optimizer_state is ClientOptimizerState.AVERAGE
        for names, ends in ((now - before, (SERVER, FED_SERVER)), (before - now, (FED_SERVER, SERVER))):
            moved = _among(after._owned if ends[0] == SERVER else self._owned, names)
            if moved.names:
                self._exchange(self._global(moved), MessageKind.MOVED_LAYERS, ends, step, None, with_state=with_state)

    @contextmanager
    def installed(self, client: int, weight: float = 1.0) -> Iterator[None]:
        """Put everything a participant owns in the module's place, for a loss multiplied by ``weight``."""
        with self.participants[client].installed(weight):
            yield

    def global_weights(self) -> Tensors:
        """Copies of the global parameters and buffers by name; in mid-round the weighted mean of those present."""
        tensors: Tensors = {}
        if self._reading is None:
            tensors, _ = self._mean_present()
        held = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        return {name: tensors[name] if name in tensors else held[name].detach().clone() for name in held}

    def read(self) -> None:
        """Let module and optimizer show the global model, in mid-round too, until :meth:`resume`. Not metered."""
        if self._reading is not None or not self._present():
            return
        # Evaluation loops run in inference mode, whose tensors autograd would later refuse.
        with torch.inference_mode(mode=False), torch.no_grad():
            tensors, states = self._mean_present()
        self._reading = []
        for name, tensor in tensors.items():
            shown = self._tensor(name)
            self._reading.append((name, shown, shown.data))
            shown.data = tensor
        for name, state in states.items():
            self._reading_state[name] = self._optimizer.state.get(self._module.get_parameter(name), {})
            self._set_state(name, state)

    def resume(self) -> None:
        """End :meth:`read`. Nothing that was read is fed back, nor what a reader wrote into it."""
        for name, tensor, data in self._reading or ():
            tensor.data = data
            if self._tensor(name) is not tensor:  # a buffer that a reader assigned anew
                self._put_buffer(name, tensor)
        for name, state in self._reading_state.items():
            self._set_state(name, state)
        self._reading, self._reading_state = None, {}

    def state_dict(self) -> dict[str, Any]:
        """All that the round at hand holds beside the global model, as tensors and plain Python; not copies."""
        was_read = self._reading is not None
        self.resume()
        state: dict[str, Any] = {
            "round": self.round,
            "participants": {
                client: (found.samples, found.lost, *_together(_part(found.shard), _part(found.replica)))
                for client, found in self.participants.items()
            },
            "gradients": {
                client: {**found.shard.gradients(), **found.replica.gradients()}
                for client, found in self.participants.items()
            },
            "alike_gradients": self.alike.gradients(),
            "kept": self._kept,
            "frozen": {name: sorted(known) for name, known in self._frozen.items()},
            "global": self._global(self._owned),
        }
        if was_read:
            self.read()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of a round, at the same cuts or at others.

        At other cuts, what a participant owns now and did not own before is a copy of the global model; what it owned
        and is shared by now is the mean that the checkpoint shows.
        """
        assert not self.participants
        self.round, self._kept = state["round"], dict(state["kept"])
        self.alike.put_gradients(state["alike_gradients"])
        tensors, states = state["global"]
        before = {name: set(known) for name, known in state["frozen"].items()}
        trained = {name for name, parameter in self._module.named_parameters() if parameter.requires_grad}
        averaged = dict(self._module.named_parameters()).keys() & tensors.keys()
        self._frozen = {
            name: before.get(name, set()) for name in sorted({*before, *averaged} - {*trained, *self._owned.names})
        }
        owned = [name for name in self._owned.names if name in tensors]
        with torch.no_grad():
            for name in owned:  # what is shared by now has its mean in the checkpoint's own weights
                self._tensor(name).copy_(tensors[name])
        for name in set(owned) & set(self._owned.parameters):
            self._set_state(name, states.get(name, {}))
        for client, (samples, lost, tensors, states) in state["participants"].items():
            placement = self.placements.of(client)
            participant = self._new_participant(placement)
            participant.client, participant.samples, participant.lost = client, samples, lost
            had = {name: states.get(name, {}) for name in tensors}
            for shard, part in ((participant.shard, placement.client), (participant.replica, placement.replica)):
                held, held_states = self._global(part)
                shard.load({**held, **{name: tensors[name] for name in held if name in tensors}}, held_states | had)
                shard.put_gradients(state["gradients"][client])
            self.participants[client] = participant

    def _new_participant(self, placement: Placement) -> Participant:
        client, replica = placement.client, placement.replica
        return Participant(
            client=-1,
            shard=Shard(self._module, client.parameters, client.buffers, self._optimizer),
            replica=Shard(self._module, replica.parameters, replica.buffers, self._optimizer),
        )

    def _present(self) -> list[Participant]:
        """The participants with something to average."""
        return [found for found in self.participants.values() if found.samples > 0 and not found.lost]

    def _tensor(self, name: str) -> Tensor:
        owner, _, key = name.rpartition(".")
        tensor: Tensor = getattr(self._module.get_submodule(owner), key)
        return tensor

    def _set_state(self, name: str, state: State) -> None:
        """Put a parameter's state in the user's optimizer; an empty one takes it out."""
        parameter = self._module.get_parameter(name)
        if state:
            self._optimizer.state[parameter] = state
        else:
            self._optimizer.state.pop(parameter, None)

    def _put_buffer(self, name: str, tensor: Tensor) -> None:
        owner, _, key = name.rpartition(".")
        self._module.get_submodule(owner)._buffers[key] = tensor

    def _global(self, owned: Owned) -> Part:
        """Weights, buffers and optimizer state of the global model; not copies."""
        tensors = {name: self._tensor(name).detach() for name in owned.names}
        found = {name: self._optimizer.state.get(self._module.get_parameter(name)) for name in owned.parameters}
        return tensors, {name: state for name, state in found.items() if state}

    def _send(self, part: Part, client: int, step: int, *, uplink: bool) -> Part:
        """Send weights, buffers and optimizer state over the link and return what arrives."""
        ends = (client_name(client), FED_SERVER) if uplink else (FED_SERVER, client_name(client))
        kind = MessageKind.CLIENT_UPDATE if uplink else MessageKind.BROADCAST
        with_state = self._aggregation.client_optimizer_state is ClientOptimizerState.AVERAGE
        # The client began from the global model, which is as it was: both ends have it.
        base = {name: self._tensor(name).detach() for name in part[0]} if uplink else None
        return self._exchange(part, kind, ends, step, self.placements.cut_of(client), with_state=with_state, base=base)

    def _exchange(
        self,
        part: Part,
        kind: MessageKind,
        ends: tuple[str, str],
        step: int,
        cut: str | None,
        *,
        with_state: bool,
        base: Tensors | None = None,
    ) -> Part:
        tensors, states = part

        def send(kind: MessageKind, payload: Mapping[str, Tensor], base: Tensors | None = None) -> Tensors:
            return self._link.send(
                kind,
                sender=ends[0],
                receiver=ends[1],
                round=self.round or 0,
                step=step,
                cut=cut,
                tensors=payload,
                base=base,
            )

        received = send(kind, tensors, base) if tensors else {}
        if states and with_state:
            states = unpack_states(send(MessageKind.OPTIMIZER_STATE, pack_states(states)), states)
        return received, states

    def _mean_present(self) -> Part:
        present = self._present()
        return self._mean(present, [_together(_part(p.shard), _part(p.replica)) for p in present])

    def _mean(self, present: list[Participant], parts: list[Part]) -> Part:
        """The weighted mean over participants of what they own."""
        tensors: Tensors = {}
        states: dict[str, State] = {}
        if not parts:
            return tensors, states
        weights = self._aggregation.weights(present)
        with torch.no_grad():
            for name in self._owned.parameters:
                tensors[name] = mean_tensor([part[0][name] for part in parts], weights)
            for name in self._owned.buffers:
                tensors[name] = mean_tensor([part[0][name] for part in parts], weights, keep_equal=True)
            for name in self._owned.parameters:
                if state := mean_state([part[1].get(name, {}) for part in parts], weights):
                    states[name] = state
        return tensors, states


def _among(owned: Owned, names: set[str]) -> Owned:
    return Owned(
        parameters=tuple(name for name in owned.parameters if name in names),
        buffers=tuple(name for name in owned.buffers if name in names),
    )


def _part(shard: Shard) -> Part:
    return shard.tensors(), shard.optimizer_state()


def _together(shard: Part, replica: Part) -> Part:
    """All that a participant owns, on whichever side it is computed."""
    return {**shard[0], **replica[0]}, {**shard[1], **replica[1]}
