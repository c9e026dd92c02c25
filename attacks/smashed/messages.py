"""From messages to what attacks on smashed data take, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from attacks.attack import RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.images import ImageSpace
from attacks.observation import Observation
from attacks.reconstruction import Progress, Reconstruction
from attacks.smashed.distance import carries_nothing
from attacks.smashed.networks import as_map
from attacks.smashed.victim import Forward, Program, ServerLoss
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind

Rebuild = Callable[[Observation, Forward, ImageSpace, Progress], Reconstruction]

WHITE_BOX = ThreatModel(
    name="white box at the cut",
    description=(
        "Who sees the smashed data, labels, masks and the weights that clients are sent, and knows the model's program,"
        " the range of its input and some records of the same kind."
    ),
    sees=frozenset(
        {MessageKind.SMASHED, MessageKind.LABEL, MessageKind.MASK, MessageKind.INPUT, MessageKind.BROADCAST}
    ),
    knows=frozenset(
        {Knowledge.ARCHITECTURE, Knowledge.CLIENT_WEIGHTS, Knowledge.INPUT_RANGE, Knowledge.AUXILIARY_RECORDS}
    ),
)


def forward_of(attacker: Attacker, observation: Observation) -> Forward:
    """The client's half with the weights in force, and with what crossed beside the smashed data.

    Raises:
        ValueError: The weights are those of another model, or the private input is not one tensor of images.
    """
    program = attacker.program_at(observation.cut)
    program.check(observation.weights)
    name, _, _ = program.image_input(observation.records)

    def forward(images_BCHW: Tensor) -> tuple[Tensor, ...]:
        return program.smashed(observation.weights, {name: images_BCHW}, _fitting(observation, images_BCHW))

    return forward


QUERY_FREE = ThreatModel(
    name="the server behind the cut, without queries",
    description=(
        "Who sees the smashed data and the labels, and knows the model's program, the server's weights, the range of"
        " the input and some labelled records of the same kind; not the clients' weights."
    ),
    sees=frozenset({MessageKind.SMASHED, MessageKind.LABEL}),
    knows=frozenset(
        {Knowledge.ARCHITECTURE, Knowledge.SERVER_WEIGHTS, Knowledge.INPUT_RANGE, Knowledge.AUXILIARY_RECORDS}
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """What an attacker needs who trains a client's half of its own.

    Attributes:
        auxiliary_BCHW: Unit images of the kind that clients hold.
        labels_B: Their labels.
        program: The client's half with weights of the attacker's choice.
        drawn: Weights to begin with, which the attacker drew.
        server_loss: The server's half.
    """

    auxiliary_BCHW: Tensor
    labels_B: Tensor
    program: Program
    drawn: Mapping[str, Tensor]
    server_loss: ServerLoss


def simulation_of(attacker: Attacker, seed: int) -> Simulation:
    """What the attacker has to train a client's half with.

    Raises:
        UnavailableError: Its records have no labels, or clients compute the loss.
    """
    auxiliary = attacker.auxiliary
    if auxiliary.labels_B is None:
        raise UnavailableError("it needs auxiliary records with class labels, and these have none.")
    known = attacker.program
    if known.split is not None and known.split.back is not None:
        raise UnavailableError("the server computes no loss in a U-shape, so its half cannot judge a simulated one.")
    label, weights = known.label_input(), attacker.server_weights
    return Simulation(
        auxiliary_BCHW=attacker.space.to_unit(auxiliary.images_BCHW),
        labels_B=auxiliary.labels_B,
        program=program_of(attacker),
        drawn=known.drawn_weights(seed),
        server_loss=lambda smashed, labels: known.server_loss(weights, smashed, {label: labels}),
    )


def program_of(attacker: Attacker) -> Program:
    """The client's half with weights of the attacker's choice."""
    known = attacker.program
    name, _, _ = known.image_input(1)
    return lambda weights, images_BCHW: known.smashed(weights, {name: images_BCHW}, {})


def rebuilt(
    attacker: Attacker,
    observations: Sequence[Observation],
    rebuild: Callable[[Observation, Progress], Reconstruction],
    progress: Progress,
) -> tuple[RebuiltBatch, ...]:
    """Rebuild every observed batch by itself, by attackers without the client's weights."""
    found: list[RebuiltBatch] = []
    for place, observation in enumerate(observations):
        made = rebuild(observation, partial(_part_of, progress, place, len(observations)))
        images = attacker.space.to_input(made.unit_BCHW)
        found.append(RebuiltBatch(number=observation.number, images_BCHW=images, in_order=True, fit=made.fit))
    return tuple(found)


def rebuild_each(
    attacker: Attacker, observations: Sequence[Observation], rebuild: Rebuild, progress: Progress
) -> tuple[RebuiltBatch, ...]:
    """Rebuild every observed batch by itself, by attackers who know the client's weights."""

    def with_forward(observation: Observation, part: Progress) -> Reconstruction:
        return rebuild(observation, forward_of(attacker, observation), attacker.space, part)

    return rebuilt(attacker, observations, with_forward, progress)


def check_decodable(observations: Sequence[Observation]) -> None:
    """Raise an UnavailableError unless a decoder can read what crossed."""
    try:
        as_map(observations[0].smashed, observations[0].records)
    except ValueError as error:
        raise UnavailableError(str(error)) from error


def bound_of(observations: Sequence[Observation]) -> str:
    """Why nothing can come back: smashed data that are all zero are so whatever the records are."""
    dead = all(carries_nothing(observation.smashed) for observation in observations)
    finite = all(bool(tensor.isfinite().all()) for observation in observations for tensor in observation.smashed)
    return "Everything that crossed is zero, whatever the records: there is nothing in it." if dead and finite else ""


def _fitting(observation: Observation, images_BCHW: Tensor) -> dict[str, Tensor]:
    """What crossed beside, where the batch is of the observed size; of other records the attacker leaves it blank."""
    return observation.known if len(images_BCHW) == observation.records else {}


def _part_of(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
