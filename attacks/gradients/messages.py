"""From messages to what attacks on gradients take, and back."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from attacks.attack import RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.victim import GradientOf, Gradients
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction
from attacks.threat import Knowledge, ThreatModel
from attacks.update import Update, last_updates
from lightning_sfl.link.message import MessageKind

OF_UPDATES = ThreatModel(
    name="white box of updates",
    description=(
        "Who sees the weights that clients are sent and send back, and knows the model's program, how clients step, how"
        " many records a step holds, the range of the input and some records of the same kind."
    ),
    sees=frozenset({MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE, MessageKind.OPTIMIZER_STATE}),
    knows=frozenset(
        {
            Knowledge.ARCHITECTURE,
            Knowledge.CLIENT_WEIGHTS,
            Knowledge.LOCAL_HYPERPARAMETERS,
            Knowledge.BATCH_SIZES,
            Knowledge.INPUT_RANGE,
            Knowledge.AUXILIARY_RECORDS,
        }
    ),
)
OF_HALF_UPDATES = dataclasses.replace(
    OF_UPDATES,
    name="white box of updates and cut gradients",
    description=(
        "Who sees the cut gradients and the weights that clients are sent and send back, and knows the client's"
        " program, how clients step, the range of the input and some records of the same kind."
    ),
    sees=OF_UPDATES.sees | {MessageKind.CUT_GRADIENT, MessageKind.SMASHED, MessageKind.MASK, MessageKind.INPUT},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One update to be attacked.

    Attributes:
        update: The update.
        records: How many records it stems from.
        gradient_of: The victim as the attacker runs it.
        gradients: What it is to give.
        names: The parameters that these are of.
    """

    update: Update
    records: int
    gradient_of: GradientOf
    gradients: Gradients
    names: tuple[str, ...]


def whole_model_targets(attacker: Attacker) -> list[Target]:
    """Updates of clients that hold the whole model, each of a single step.

    Raises:
        UnavailableError: Clients hold only a part of it, or gradients cannot be read from their updates.
    """
    if attacker.cut is not None:
        raise UnavailableError(
            "clients hold only a part of the model, and the loss behind the cut is not theirs: see the attack on"
            " updates of client halves."
        )
    chosen: list[Target] = []
    for update in _readable(last_updates(attacker)):
        records = attacker.batch_size(update.client, update.round)
        names = tuple(update.gradients)
        gradients = tuple(update.gradients[name].float() for name in names)
        chosen.append(
            Target(
                update=update,
                records=records,
                gradient_of=_whole_gradient(attacker, update, names),
                gradients=gradients,
                names=names,
            )
        )
        if sum(target.records for target in chosen) >= attacker.records:
            break
    return chosen


def half_targets(attacker: Attacker) -> list[Target]:
    """Updates of client halves, each of a single step whose cut gradient was seen.

    A client's gradient is Jᵀ·g with the cut gradient g and its own Jacobian J: no loss, label or server half is needed.

    Raises:
        UnavailableError: Clients hold the whole model, no cut gradient was seen, or gradients cannot be read.
    """
    if attacker.cut is None:
        raise UnavailableError("clients hold the whole model: see the attack on updates of whole models.")
    seen = {(found.client, found.round): found for found in last_observations(attacker)}
    chosen: list[Target] = []
    for update in _readable(last_updates(attacker)):
        observation = seen.get((update.client, update.round))
        if observation is None or not any(gradient is not None for gradient in observation.cut_gradients):
            continue
        names = attacker.program.before_the_cut(tuple(update.gradients))  # of a U-shape's end, g says nothing
        chosen.append(
            Target(
                update=update,
                records=observation.records,
                gradient_of=_half_gradient(attacker, update, observation, names),
                gradients=tuple(update.gradients[name].float() for name in names),
                names=names,
            )
        )
    if not chosen:
        raise UnavailableError("no cut gradient of a client's update crossed.")
    return chosen


def rebuild_each(
    attacker: Attacker,
    targets: Sequence[Target],
    rebuild: Callable[[Target, Progress], Reconstruction],
    progress: Progress,
) -> tuple[RebuiltBatch, ...]:
    """Rebuild the batch of every update by itself; it comes back in no order."""
    found: list[RebuiltBatch] = []
    for place, target in enumerate(targets):
        made = rebuild(target, partial(_part_of, progress, place, len(targets)))
        images = attacker.space.to_input(made.unit_BCHW)
        found.append(RebuiltBatch(number=target.update.number, images_BCHW=images, in_order=False, fit=made.fit))
    return tuple(found)


def _readable(updates: Sequence[Update]) -> list[Update]:
    found = [update for update in updates if update.gradients]
    if not found:
        raise UnavailableError(
            "no gradient can be read from the updates: rounds of one step with SGD, Adam or AdamW are readable (with"
            " momentum, where the optimizer's state crosses)."
        )
    return found


def _whole_gradient(attacker: Attacker, update: Update, names: tuple[str, ...]) -> GradientOf:
    program = attacker.program
    program.check(update.before)
    image, _, _ = program.image_input(1)
    label = program.label_input()

    def gradient(images: Tensor, labels: Tensor) -> Gradients:
        return _differentiated(names, update, lambda weights: program.loss(weights, {image: images}, {label: labels}))

    return gradient


def _half_gradient(attacker: Attacker, update: Update, seen: Observation, names: tuple[str, ...]) -> GradientOf:
    program = attacker.program
    program.check(update.before)
    image, _, _ = program.image_input(1)

    def gradient(images: Tensor, labels: Tensor) -> Gradients:
        """Of the mean loss, whose gradient at the cut was seen; labels do not matter."""
        known = seen.known if len(images) == seen.records else {}

        def value(weights: dict[str, Tensor]) -> Tensor:
            smashed = program.smashed(weights, {image: images}, known)
            parts = [
                (ours * theirs[: len(images)].to(ours.dtype)).sum()
                for ours, theirs in zip(smashed, seen.cut_gradients, strict=True)
                if theirs is not None
            ]
            return torch.stack(parts).sum()

        return _differentiated(names, update, value)

    return gradient


def _differentiated(names: tuple[str, ...], update: Update, value: Callable[[dict[str, Tensor]], Tensor]) -> Gradients:
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        weights = {name: tensor.detach() for name, tensor in update.before.items()}
        trained = {name: weights[name].clone().requires_grad_() for name in names}
        return torch.autograd.grad(
            value({**weights, **trained}),
            tuple(trained.values()),
            create_graph=differentiable,
            materialize_grads=True,
        )


def _part_of(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
