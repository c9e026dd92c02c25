"""Everything that one step sent, together: smashed data, and the update that the cut gradient made."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.messages import OF_HALF_UPDATES, Target, half_targets
from attacks.images import ImageSpace
from attacks.joint.stacked import Term, stacked
from attacks.observation import Observation, last_observations
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.smashed.distance import carries_nothing, wide
from attacks.smashed.messages import WHITE_BOX, bound_of, forward_of
from attacks.smashed.victim import Forward
from attacks.smashed.white_box import WhiteBox
from attacks.threat import ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStep:
    """White-box inversion of the smashed data and of the update of a client's half, in one objective.

    A client that sends z = f(x) and whose update shows Jᵀ·g, with the cut gradient g that it was sent, must have had
    images that explain both. With rᶻ and rᵍ the relative squared distances, (1 − w)·rᶻ + w·rᵍ + a·TV is made small. The
    share w, 0 among the candidates, and the prior are chosen on auxiliary images, so that an update that does not help
    is left out. (Ours; no published attack uses both.)

    Args:
        descent: How images are found, and the candidates for the prior.
        shares: Candidates for w.
    """

    descent: WhiteBox = dataclasses.field(default_factory=WhiteBox)
    shares: tuple[float, ...] = (0.0, 0.1, 0.5)

    name: ClassVar[str] = "smashed data and update of one step jointly"
    needs: ClassVar[ThreatModel] = ThreatModel(
        name="white box of a whole step",
        description=(
            "Who sees the smashed data, the cut gradients and the weights that clients are sent and send back, and"
            " knows the client's program, how clients step, the range of the input and some records of the same kind."
        ),
        sees=WHITE_BOX.sees | OF_HALF_UPDATES.sees,
        knows=WHITE_BOX.knows | OF_HALF_UPDATES.knows,
    )

    def __post_init__(self) -> None:
        if not self.shares or not all(0 <= share < 1 for share in self.shares):
            raise ValueError(f"shares={self.shares} is not accepted: give numbers from 0 to below 1.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"{self.descent.budget}, for each of {len(self.shares)} shares of the update"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        seen = {(found.client, found.round): found for found in last_observations(attacker)}
        steps = [
            _Step.of(attacker, target, seen[target.update.client, target.update.round])
            for target in half_targets(attacker)
            if len(target.sizes) == 1
        ]
        if not steps:
            raise UnavailableError("rounds have several steps, and their update does not show the first one's alone.")
        space, parts = attacker.space, len(steps) + 1
        chosen, share = self.tuned(attacker.auxiliary_unit, steps[0], space, partial(_part, progress, 0, parts))
        batches: list[RebuiltBatch] = []
        for place, step in enumerate(steps):
            made = step.rebuilt(chosen, share, space, partial(_part, progress, place + 1, parts))
            images = space.to_input(made.unit_BCHW)
            batches.append(RebuiltBatch(number=step.number, images_BCHW=images, in_order=True, fit=made.fit))
        weight = chosen.candidates[0].prior_weight
        return Findings(
            batches=tuple(batches),
            budget=f"{self.budget}; prior {weight:g}, share of the update {share:g}; {len(batches)} batches",
            bound=bound_of(list(seen.values())),
        )

    def tuned(
        self, auxiliary_BCHW: Tensor | None, step: "_Step", space: ImageSpace, progress: Progress = unwatched
    ) -> tuple[WhiteBox, float]:
        """The prior and the share that rebuild auxiliary images best; the first of each, without any."""
        if auxiliary_BCHW is None:
            return dataclasses.replace(self.descent, candidates=self.descent.candidates[:1]), self.shares[0]
        places = torch.arange(step.records, device=auxiliary_BCHW.device) % len(auxiliary_BCHW)
        images_BCHW = wide(auxiliary_BCHW[places])
        own = step.sending(space.to_input(images_BCHW))
        trials = [(share, candidate) for share in self.shares for candidate in self.descent.candidates]
        errors: list[float] = []
        for place, (share, candidate) in enumerate(trials):
            attack = dataclasses.replace(self.descent, candidates=(candidate,))
            made = own.rebuilt(attack, share, space, partial(_part, progress, place, len(trials)))
            error_B = (made.unit_BCHW - images_BCHW).square().flatten(1).mean(1)
            errors.append(float(error_B.clamp(min=1e-10).log().mean()))
        share, candidate = trials[errors.index(min(errors))]
        return dataclasses.replace(self.descent, candidates=(candidate,)), share


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """One client's step: what images would send, and what was sent."""

    number: int
    records: int
    forward: Forward
    smashed: tuple[Tensor, ...]
    gradient_of: Forward
    gradients: tuple[Tensor, ...]

    @classmethod
    def of(cls, attacker: Attacker, target: Target, seen: Observation) -> "_Step":
        blank = torch.zeros(seen.records, dtype=torch.int64)  # the loss behind the cut is not looked at
        return cls(
            number=seen.number,
            records=seen.records,
            forward=forward_of(attacker, seen),
            smashed=seen.smashed,
            gradient_of=lambda images_BCHW: target.gradient_of(images_BCHW, blank),
            gradients=target.gradients,
        )

    def sending(self, images_BCHW: Tensor) -> "_Step":
        """The step that other images would have made, with the same cut gradient."""
        with torch.no_grad():
            smashed, gradients = self.forward(images_BCHW), self.gradient_of(images_BCHW)
        return dataclasses.replace(self, smashed=smashed, gradients=gradients)

    def rebuilt(self, attack: WhiteBox, share: float, space: ImageSpace, progress: Progress) -> Reconstruction:
        if carries_nothing(self.smashed) or carries_nothing(self.gradients):
            share = 0.0
        if share == 0:
            return attack.reconstruct(self.smashed, self.forward, space, self.records, progress)
        terms: Sequence[Term] = (
            (self.forward, self.smashed, 1 - share),
            (self.gradient_of, self.gradients, share),
        )
        forward, sent = stacked(terms)
        return attack.reconstruct(sent, forward, space, self.records, progress)


def _part(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
