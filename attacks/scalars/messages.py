"""From messages of seeds and scalars to what attacks on them take."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.attacker import Attacker, UnavailableError
from attacks.scalars.probed import ForwardAt, Probed
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.algorithms.forward_only import Surrogate
from lightning_sfl.link.message import Message, MessageKind
from lightning_sfl.zeroth_order.directions import Directions, Distribution

_KEPT_BYTE = 2**28
"""As much of the directions is kept, since every guess is probed along the same ones."""

OF_SCALARS = ThreatModel(
    name="white box of seeds and scalars",
    description=(
        "Who sees the seeds, the cut gradients and the scalars of single clients, and knows the model's program, the"
        " clients' weights, how far they move them along a direction, the range of the input and some records of the"
        " same kind. The smashed data are not used."
    ),
    sees=frozenset({MessageKind.SEEDS, MessageKind.SCALARS, MessageKind.CUT_GRADIENT}),
    knows=frozenset(
        {
            Knowledge.ARCHITECTURE,
            Knowledge.CLIENT_WEIGHTS,
            Knowledge.LOCAL_HYPERPARAMETERS,
            Knowledge.INPUT_RANGE,
            Knowledge.AUXILIARY_RECORDS,
        }
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One client's scalars of one step: linear measurements of its gradient along directions that the seeds name.

    Attributes:
        number: Number of the message of scalars.
        round: The round.
        records: How many records they were made of.
        scalars_P: The scalars, in float64.
        probed: The client as the attacker runs it.
    """

    number: int
    round: int
    records: int
    scalars_P: Tensor
    probed: Probed


def last_measurements(attacker: Attacker) -> list[Measurement]:
    """The scalars that every client sent in the step whose weights are known; no more clients than the audit attacks.

    Clients' means, which are sent back and replayed to those who were away, are of all clients together and not taken
    for a single one's.

    Returns:
        By ascending client.

    Raises:
        UnavailableError: No client sent any, or none that follow from what came back over the cut.
    """
    uploaded = [message for message in attacker.messages(MessageKind.SCALARS) if message.is_uplink]
    if not uploaded:
        raise UnavailableError("no client sent scalars: clients backpropagate, or the server computes their losses.")
    known = attacker.client_weights_step
    last = max(message.step for message in uploaded) if known is None else known
    probing = attacker.probing
    if probing.surrogate is not Surrogate.CUT_GRADIENT:
        raise UnavailableError(
            f"the scalars of {probing.name!r} are differences of a loss of the clients' own ({probing.surrogate}), not"
            " slopes along a cut gradient that was seen."
        )
    seeds = {_client(m): m.decoded() for m in attacker.messages(MessageKind.SEEDS) if m.step == last}
    gradients = {_client(m): m.decoded() for m in attacker.messages(MessageKind.CUT_GRADIENT) if m.step == last}
    weights = attacker.latest_client_weights
    attacker.program.check(weights)
    chosen: list[Measurement] = []
    for message in sorted((m for m in uploaded if m.step == last), key=_client):
        client = _client(message)
        if client not in seeds or client not in gradients:
            continue
        back = gradients[client]
        places = max(map(int, back)) + 1
        cut_gradients = tuple(back.get(str(place)) for place in range(places))
        forward = _forward(attacker, weights, seeds[client]["seeds"])
        scalars_P = message.decoded()["scalars"].double()
        chosen.append(
            Measurement(
                number=message.number,
                round=message.round,
                records=len(next(gradient for gradient in cut_gradients if gradient is not None)),
                scalars_P=scalars_P,
                probed=Probed(forward, cut_gradients, len(scalars_P), attacker.space),
            )
        )
        if sum(found.records for found in chosen) >= attacker.records:
            break
    if not chosen:
        raise UnavailableError("no scalars crossed whose seeds and cut gradient crossed as well.")
    return chosen


def _forward(attacker: Attacker, weights: Mapping[str, Tensor], seeds_P: Tensor) -> ForwardAt:
    """The client's half, with its weights as they are or moved along one of the directions."""
    program, probing = attacker.program, attacker.probing
    name, _, _ = program.image_input(1)
    directions = Directions(program.module, seeds_P, Distribution(probing.distribution), keeps_byte=_KEPT_BYTE)
    moved_names = [own for own in weights if own in program.trained]

    def at(probe: int | None) -> dict[str, Tensor]:
        if probe is None:
            return dict(weights)
        # Rounded as the client rounds: μ·u is added in the precision of the weights (Directions.moved).
        moved = {
            own: torch.add(weights[own], directions.of(own, probe).to(weights[own]), alpha=probing.mu)
            for own in moved_names
        }
        return {**weights, **moved}

    def forward(probe: int | None, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        return program.smashed(at(probe), {name: images_BCHW}, {})

    return forward


def _client(message: Message) -> int:
    """The client at one end; of the kinds read here, every message has one."""
    assert message.client is not None
    return message.client
