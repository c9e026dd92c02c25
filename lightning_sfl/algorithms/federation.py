"""The federation: who takes part in the round at hand, what each of them owns, and how it becomes one model again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sfl.algorithms.aggregation import Aggregation, ClientOptimizerState
from lightning_sfl.algorithms.placement import Owned, Placement
from lightning_sfl.clients import Participant, Shard
from lightning_sfl.link.link import Link
from lightning_sfl.link.message import FED_SERVER, MessageKind, client_name
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
        placement: Who owns what.
        link: Carries broadcasts and updates.
        cut: The cut in force, for the messages.
        aggregation: How participants become one model.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        placement: Placement,
        link: Link,
        cut: str | None,
        aggregation: Aggregation,
    ) -> None:
        self.placement = placement
        self._aggregation = aggregation
        self._kept: dict[int, dict[str, State]] = {}  # by parameter name, so that it follows a cut that moves
        self.round: int | None = None
        self.participants: dict[int, Participant] = {}
        self._module = module
        self._optimizer = optimizer
        self._link = link
        self._cut = cut
        self._idle: list[Participant] = []
        self._reading: list[tuple[str, Tensor, Tensor]] | None = None
        self._reading_state: dict[str, State] = {}

    def open(self, round: int, clients: Sequence[int], step: int) -> None:
        """Begin a round: send the global model to its participants."""
        assert self._reading is None
        assert not self.participants
        self.round = round
        shard, replica = self._global(self.placement.client), self._global(self.placement.replica)
        for client in clients:
            participant = self._idle.pop() if self._idle else self._new_participant()
            participant.client, participant.samples = client, 0
            received = self._send(shard, client, step, uplink=False)
            if self._aggregation.client_optimizer_state is ClientOptimizerState.AVERAGE:
                own = (received[1], replica[1])
            else:
                kept = self._kept.get(client, {})
                own = (kept, kept)
            participant.shard.load(received[0], own[0])
            participant.replica.load(replica[0], own[1])  # it stays on the server
            self.participants[client] = participant

    def close(self, step: int) -> None:
        """End the round: average what the participants own. Nobody present: nothing changes."""
        present = self._present()
        shards = [self._send(_part(p.shard), p.client, step, uplink=True) for p in present]
        replicas = [_part(p.replica) for p in present]
        tensors, states = self._mean(present, shards, replicas)
        with torch.no_grad():
            for name, tensor in tensors.items():
                held = self._tensor(name)
                if held.is_inference():  # a buffer that validation assigned anew
                    self._put_buffer(name, tensor)
                else:
                    held.copy_(tensor)
        rule = self._aggregation.client_optimizer_state
        if rule is ClientOptimizerState.KEEP:
            for participant in present:
                self._kept[participant.client] = {
                    name: own for party in participant.parties for name, own in party.optimizer_state().items()
                }
        for name, state in states.items():
            self._set_state(name, {} if rule is ClientOptimizerState.RESET else state)
        self._idle.extend(self.participants.values())
        self.participants = {}
        self.round = None

    @contextmanager
    def installed(self, client: int) -> Iterator[None]:
        """Put everything a participant owns in the module's place."""
        participant = self.participants[client]
        with participant.shard.installed(), participant.replica.installed():
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
        """End :meth:`read`. Nothing that was read is fed back."""
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
                client: {
                    "samples": participant.samples,
                    "shard": _part(participant.shard),
                    "replica": _part(participant.replica),
                }
                for client, participant in self.participants.items()
            },
            "kept": self._kept,
            "global": [self._global(owned) for owned in (self.placement.client, self.placement.replica)],
        }
        if was_read:
            self.read()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of a round, at the same cut or at another.

        At another cut, what a participant owns now and did not own before is a copy of the global model; what it owned
        and is shared by now is the mean that the checkpoint shows.
        """
        assert not self.participants
        self.round, self._kept = state["round"], dict(state["kept"])
        owned_now = {*self.placement.client.names, *self.placement.replica.names}
        for tensors, states in state["global"]:  # what is shared by now has its mean in the checkpoint's own weights
            with torch.no_grad():
                for name in owned_now & tensors.keys():
                    self._tensor(name).copy_(tensors[name])
            for name in owned_now & tensors.keys() & dict(self._module.named_parameters()).keys():
                self._set_state(name, states.get(name, {}))
        for client, saved in state["participants"].items():
            participant = self._new_participant()
            participant.client, participant.samples = client, saved["samples"]
            tensors = {**saved["shard"][0], **saved["replica"][0]}
            states = {**{name: {} for name in tensors}, **saved["shard"][1], **saved["replica"][1]}
            for shard, owned in (
                (participant.shard, self.placement.client),
                (participant.replica, self.placement.replica),
            ):
                held, held_states = self._global(owned)
                own = {name: tensors.get(name, tensor) for name, tensor in held.items()}
                shard.load(own, {**held_states, **states})
            self.participants[client] = participant

    def _new_participant(self) -> Participant:
        client, replica = self.placement.client, self.placement.replica
        return Participant(
            client=-1,
            shard=Shard(self._module, client.parameters, client.buffers, self._optimizer),
            replica=Shard(self._module, replica.parameters, replica.buffers, self._optimizer),
        )

    def _present(self) -> list[Participant]:
        """The participants with something to average."""
        return [participant for participant in self.participants.values() if participant.samples > 0]

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
        tensors, states = part
        ends = (client_name(client), FED_SERVER) if uplink else (FED_SERVER, client_name(client))
        assert self.round is not None

        def send(kind: MessageKind, payload: Mapping[str, Tensor]) -> Tensors:
            return self._link.send(
                kind,
                sender=ends[0],
                receiver=ends[1],
                round=self.round or 0,
                step=step,
                cut=self._cut,
                tensors=payload,
            )

        received = send(MessageKind.CLIENT_UPDATE if uplink else MessageKind.BROADCAST, tensors)
        if states and self._aggregation.client_optimizer_state is ClientOptimizerState.AVERAGE:
            states = unpack_states(send(MessageKind.OPTIMIZER_STATE, pack_states(states)), states)
        return received, states

    def _mean_present(self) -> Part:
        present = self._present()
        return self._mean(present, [_part(p.shard) for p in present], [_part(p.replica) for p in present])

    def _mean(self, present: list[Participant], shards: list[Part], replicas: list[Part]) -> Part:
        """The weighted mean over participants of their shards and replicas."""
        weights = self._aggregation.weights(present)
        tensors: Tensors = {}
        states: dict[str, State] = {}
        with torch.no_grad():
            for owned, parts in ((self.placement.client, shards), (self.placement.replica, replicas)):
                if not parts:
                    continue
                for name in owned.parameters:
                    tensors[name] = mean_tensor([part[0][name] for part in parts], weights)
                for name in owned.buffers:
                    tensors[name] = mean_tensor([part[0][name] for part in parts], weights, keep_equal=True)
                for name in owned.parameters:
                    if state := mean_state([part[1].get(name, {}) for part in parts], weights):
                        states[name] = state
        return tensors, states


def _part(shard: Shard) -> Part:
    return shard.tensors(), shard.optimizer_state()
