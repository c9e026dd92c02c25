"""Labels found by trying every class on a copy of what lies behind the cut."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from attacks.attack import Findings, GuessedLabels
from attacks.attacker import Attacker, UnavailableError
from attacks.labels.label_attack import LabelAttack
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.link.message import Message, MessageKind

GradientsOf = Callable[[Tensor], Sequence[Tensor | None]]
"""The gradients that would cross for these labels, (B,), of the mean loss over the batch."""


def best_class(
    gradients_of: GradientsOf, seen: Sequence[Tensor | None], classes: Sequence[int]
) -> tuple[Tensor, float]:
    """Of every record, the class whose gradient is nearest to the one that crossed.

    Behind the cut, records do not act on each other's gradients but through batch normalisation, so all of a batch are
    tried with the same class at once.

    Args:
        gradients_of: What would cross.
        seen: What did.
        classes: The classes to try.

    Returns:
        The classes, (B,), and how far what crossed is from what they would send: 0 explains it wholly.
    """
    crossed_BD = _rows(seen)
    records = len(crossed_BD)
    distance_KB = torch.stack(
        [(_rows(gradients_of(torch.full((records,), label))) - crossed_BD).square().sum(dim=1) for label in classes]
    )
    best_B = distance_KB.argmin(dim=0)
    left = distance_KB.gather(0, best_B[None]).sum() / crossed_BD.square().sum().clamp_min(1e-300)
    return torch.tensor(list(classes))[best_B.cpu()], float(left)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryClass(LabelAttack):
    """Every class is tried on a copy of what lies behind the cut, and the one kept whose gradient is what crossed.

    In a U-shape that is the client's second part, whose weights are broadcast: fed what the server sent, it must give
    the gradient that the client sent back. At a single cut it is the server's half. Ours; no published form of it is
    followed. Exact where the weights are those in force and no dropout or batch normalisation lies behind the cut.
    """

    name: ClassVar[str] = "every class tried"
    needs: ClassVar[ThreatModel] = ThreatModel(
        name="white box behind the cut",
        description=(
            "Who sees what crosses the cuts both ways, but no labels, and the weights that clients are sent, and knows"
            " the model's program, both halves' weights and which classes there are, from records of the same kind."
        ),
        sees=frozenset(
            {
                MessageKind.SMASHED,
                MessageKind.MASK,
                MessageKind.CUT_GRADIENT,
                MessageKind.SERVER_OUTPUT,
                MessageKind.OUTPUT_GRADIENT,
                MessageKind.BROADCAST,
            }
        ),
        knows=frozenset(
            {
                Knowledge.ARCHITECTURE,
                Knowledge.CLIENT_WEIGHTS,
                Knowledge.SERVER_WEIGHTS,
                Knowledge.AUXILIARY_RECORDS,
            }
        ),
    )

    @property
    @override
    def budget(self) -> str:
        return "one gradient per class"

    @override
    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        if attacker.cut is None:
            raise UnavailableError("clients hold the whole model, so no gradient of the loss crosses by itself.")
        labels = attacker.auxiliary.labels_B
        if labels is None:
            raise UnavailableError("it needs auxiliary records with class labels, and these have none.")
        classes = labels.unique().tolist()
        observations = last_observations(attacker)
        split = attacker.program.split
        targets = _at_the_end if split is not None and split.back is not None else _at_the_server
        found: list[GuessedLabels] = []
        fits: list[float] = []
        for place, (number, gradients_of, seen) in enumerate(targets(attacker, observations)):
            guessed_B, fit = best_class(gradients_of, seen, classes)
            found.append(GuessedLabels(number=number, labels_B=guessed_B, in_order=True))
            fits.append(fit)
            progress((place + 1) / len(observations))
        if not found:
            raise UnavailableError("no gradient of a batch crossed whose weights are known.")
        spent = f"{self.budget}, {len(classes)} classes, {len(found)} batches"
        left = sum(fits) / len(fits)
        return Findings(batches=tuple(found), budget=f"{spent}, {left:.1e} of what crossed left unexplained")


_Target = tuple[int, GradientsOf, Sequence[Tensor | None]]
"""The message that holds the gradients, what would cross for other labels, and what did."""


def _at_the_server(attacker: Attacker, observations: Sequence[Observation]) -> list[_Target]:
    program, weights, label = attacker.program, attacker.server_weights, attacker.program.label_input()
    numbers = _by_step(attacker, MessageKind.CUT_GRADIENT)

    def gradients(seen: Observation, labels_B: Tensor) -> Sequence[Tensor | None]:
        smashed = [tensor.detach().clone().requires_grad_() for tensor in seen.smashed]
        loss = program.server_loss(weights, smashed, {**seen.known, label: labels_B})
        return torch.autograd.grad(loss, smashed, allow_unused=True)

    return [
        (numbers[seen.client, seen.step].number, partial(gradients, seen), seen.cut_gradients)
        for seen in observations
        if any(gradient is not None for gradient in seen.cut_gradients)
    ]


def _at_the_end(attacker: Attacker, observations: Sequence[Observation]) -> list[_Target]:
    program, label = attacker.program, attacker.program.label_input()
    sent_back = _by_step(attacker, MessageKind.OUTPUT_GRADIENT)
    given = {at: message.decoded() for at, message in _by_step(attacker, MessageKind.SERVER_OUTPUT).items()}

    def gradients(seen: Observation, labels_B: Tensor) -> Sequence[Tensor | None]:
        program.check(seen.weights)
        outputs = list(given[seen.client, seen.step].values())
        return program.output_gradients(seen.weights, outputs, {**seen.known, label: labels_B})

    targets: list[_Target] = []
    for seen in observations:
        at = seen.client, seen.step
        if at in sent_back and at in given:
            crossed: Mapping[str, Tensor] = sent_back[at].decoded()
            back = [crossed.get(name) for name in given[at]]
            targets.append((sent_back[at].number, partial(gradients, seen), back))
    return targets


def _by_step(attacker: Attacker, kind: MessageKind) -> dict[tuple[int, int], Message]:
    return {(message.client or 0, message.step): message for message in attacker.messages(kind)}


def _rows(gradients: Sequence[Tensor | None]) -> Tensor:
    """One row per record of all that have a gradient, in float64."""
    held = [gradient.detach().cpu().double() for gradient in gradients if gradient is not None]
    return torch.cat([gradient.reshape(len(gradient), -1) for gradient in held], dim=1)
