"""From messages to what attacks on gradients take, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from attacks.attack import RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.local_steps import LocalRound, StepLoss
from attacks.gradients.victim import GradientOf, Gradients
from attacks.observation import Observation, last_observations, observations_of_round
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
        sizes: How many records each step of the round held.
        gradient_of: The victim as the attacker runs it: images of all steps, those of the first step first, to what
            the update shows of their gradients.
        mean_gradient_of: The same of one batch in the place of every step's, for questions about the victim.
        gradients: What it is to give.
        names: The parameters that these are of; momentum that crossed besides goes by parameter and key.
    """

    update: Update
    sizes: tuple[int, ...]
    gradient_of: GradientOf
    mean_gradient_of: GradientOf
    gradients: Gradients
    names: tuple[str, ...]

    @property
    def records(self) -> int:
        """How many records it stems from."""
        return sum(self.sizes)


def whole_model_targets(attacker: Attacker) -> list[Target]:
    """Updates of clients that hold the whole model.

    Raises:
        UnavailableError: Clients hold only a part of it, or gradients cannot be read from their updates.
    """
    if attacker.cut is not None:
        raise UnavailableError(
            "clients hold only a part of the model, and the loss behind the cut is not theirs: see the attack on"
            " updates of client halves."
        )
    chosen: list[Target] = []
    program = attacker.program
    image, _, _ = program.image_input(1)
    label = program.label_input()
    for update in last_updates(attacker):
        program.check(update.before)

        def loss(
            weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, step: int, update: Update = update
        ) -> Tensor:
            return program.loss({**update.before, **weights}, {image: images}, {label: labels})

        sizes = attacker.batch_sizes(update.client, update.round)
        target = _target(attacker, update, sizes, loss, program.trainable(tuple(update.after)))
        if target is not None:
            chosen.append(target)
        if sum(target.records for target in chosen) >= attacker.records:
            break
    return _some(chosen)


def half_targets(attacker: Attacker) -> list[Target]:
    """Updates of client halves, of whose every step the cut gradient was seen.

    A step's gradient is Jᵀ·g with the cut gradient g and the client's own Jacobian J: no loss, label or server half is
    needed.

    Raises:
        UnavailableError: Clients hold the whole model, no cut gradient was seen, or gradients cannot be read.
    """
    if attacker.cut is None:
        raise UnavailableError("clients hold the whole model: see the attack on updates of whole models.")
    attacked = {(found.client, found.round) for found in last_observations(attacker)}
    chosen: list[Target] = []
    crossed = False
    for update in last_updates(attacker):
        if (update.client, update.round) not in attacked:
            continue
        steps = observations_of_round(attacker, update.client, update.round)
        if not all(any(gradient is not None for gradient in step.cut_gradients) for step in steps):
            continue
        crossed = True
        sizes = tuple(step.records for step in steps)
        trained = attacker.program.trainable(tuple(update.after))
        held = attacker.program.before_the_cut(trained)  # of a U-shape's end, g says nothing
        target = _target(attacker, update, sizes, _half_loss(attacker, update, steps), held)
        if target is not None:
            chosen.append(target)
    if not crossed:
        raise UnavailableError("no cut gradient of a client's update crossed.")
    return _some(chosen)


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


def _target(
    attacker: Attacker, update: Update, sizes: tuple[int, ...], loss: StepLoss, held: Sequence[str]
) -> Target | None:
    """By the parameters that are held; None where the update does not show what the gradients were, or add up to."""
    rule = attacker.optimizer
    if rule.steps == 1 and len(sizes) == 1:
        names = tuple(name for name in update.gradients if name in held)
        if not names:
            return None

        def gradient(images: Tensor, labels: Tensor) -> Gradients:
            return _differentiated(names, update, lambda weights: loss(weights, images, labels, 0))

        return Target(
            update=update,
            sizes=sizes,
            gradient_of=gradient,
            mean_gradient_of=gradient,
            gradients=tuple(update.gradients[name].float() for name in names),
            names=names,
        )
    is_known = rule.momentum == 0 or (attacker.sees(MessageKind.OPTIMIZER_STATE) and not rule.keeps_state)
    # Several batches in one step (gradient accumulation) are not told from several steps by their sizes.
    if not is_known or rule.learning_rate == 0 or len(sizes) != rule.steps:
        return None
    trained = [name for name in held if name in update.before]
    local = LocalRound(
        loss=loss,
        before={name: update.before[name] for name in trained},
        after={name: update.after[name] for name in trained},
        rule=rule,
        sizes=sizes,
        state_before=update.states_before,
        state_after=update.states_after,
    )
    if not local.seen:
        return None
    return Target(
        update=update,
        sizes=sizes,
        gradient_of=local.gradients,
        mean_gradient_of=local.mean_gradient,
        gradients=tuple(tensor.float() for tensor in local.seen.values()),
        names=tuple(local.seen),
    )


def _some(targets: list[Target]) -> list[Target]:
    if not targets:
        raise UnavailableError(
            "no gradient can be read from the updates: those of SGD, Adam and AdamW are readable, with momentum where"
            " the optimizer's state crosses, and where a step is one batch."
        )
    return targets


def _half_loss(attacker: Attacker, update: Update, steps: Sequence[Observation]) -> StepLoss:
    program = attacker.program
    program.check(update.before)
    image, _, _ = program.image_input(1)

    def loss(weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Has the gradient of the mean loss, whose gradient at the cut was seen; labels do not matter."""
        seen = steps[step]
        known = seen.known if len(images) == seen.records else {}
        smashed = program.smashed({**update.before, **weights}, {image: images}, known)
        parts = [
            (ours * theirs[: len(images)].to(ours.dtype)).sum()
            for ours, theirs in zip(smashed, seen.cut_gradients, strict=True)
            if theirs is not None
        ]
        return torch.stack(parts).sum()

    return loss


def _differentiated(
    names: tuple[str, ...], update: Update, value: Callable[[Mapping[str, Tensor]], Tensor]
) -> Gradients:
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        trained = {name: update.before[name].detach().clone().requires_grad_() for name in names}
        return torch.autograd.grad(
            value(trained), tuple(trained.values()), create_graph=differentiable, materialize_grads=True
        )


def _part_of(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
