"""Inverting gradients: images whose gradient points where the observed one does, and that are smooth."""

import dataclasses
import enum
import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.gradients.labels import dealt
from attacks.gradients.last_layer import labels_in
from attacks.gradients.messages import OF_UPDATES, Target, rebuild_each, whole_model_targets
from attacks.gradients.starts import most_iterations, successive_halving
from attacks.gradients.victim import (
    GradientOf,
    Gradients,
    carries_nothing,
    cosine_distance,
    direction_distance,
    observed,
)
from attacks.images import ImageSpace
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.threat import ThreatModel

_BETWEEN_EXCHANGES = 10
"""Iterations between two times at which records may change places."""


class Distance(enum.StrEnum):
    """How far a gradient is from the observed one; both are free of the gradient's scale."""

    ABSOLUTE = "absolute"
    """Mean |g/‖g‖ − g*/‖g*‖| against that of g* alone. A rectifier that is open where the truth has it shut spoils
    few entries of the gradient by much; absolute values let them be, squares (and a cosine) chase them."""

    COSINE = "cosine"
    """1 − cos(g, g*), as published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvertingGradients:
    """Gradient matching over all layers jointly with a total variation prior; labels are given.

    Geiping et al. 2020, "Inverting Gradients - How easy is it to break privacy in federated learning?":
    Adam on the images in their box minimises distance(∇L(x), g*) + a·TV(x). Ours where it differs: absolute distances
    of normalised gradients by default, a step size and a weight a that fall to 0 together along a cosine, several
    starts that are given up early if others fit better, a weight a that is chosen on auxiliary images, and records that
    change places between the steps of a round that has several.

    Args:
        iterations: Steps of the start that is followed to the end.
        learning_rate: Of Adam, in units of the box's side.
        total_variation_weights: Candidates for a; :meth:`tuned` chooses one, else the first is taken.
        distance: What is made small.
        signed: Whether Adam sees only the sign of the gradient, as published.
        starts: How many starts; :func:`attacks.gradients.starts.successive_halving` drops the worse fits early.
        tuning_iterations: Steps that each candidate weight is tried with; far fewer than ``iterations`` favour a heavy
            prior.
        exchanges: Where an update stems from several steps, so many pairs of records are tried in each other's step
            after every tenth iteration.
        enough_fit: Stop when the distance falls below this.
        seed: Seeds the starts, which are uniform noise.
    """

    iterations: int = 150
    learning_rate: float = 0.1
    total_variation_weights: tuple[float, ...] = (0.3, 0.1, 1.0)
    distance: Distance = Distance.ABSOLUTE
    signed: bool = False
    starts: int = 1
    tuning_iterations: int = 60
    exchanges: int = 4
    enough_fit: float = 1e-6
    seed: int = 0

    name: ClassVar[str] = "inverting gradients"
    needs: ClassVar[ThreatModel] = OF_UPDATES

    def __post_init__(self) -> None:
        for name in ("iterations", "starts", "tuning_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not accepted: give a number above 0.")
        if self.exchanges < 0:
            raise ValueError(f"exchanges={self.exchanges} is not accepted: give an integer of at least 0.")
        weights = self.total_variation_weights
        if not weights or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"total_variation_weights={weights} is not accepted: give finite numbers of at least 0.")
        if not 0 <= self.enough_fit < 1:
            raise ValueError(f"enough_fit={self.enough_fit} is not accepted: give a number from 0 to below 1.")
        object.__setattr__(self, "distance", Distance(self.distance))

    @property
    def budget(self) -> str:
        """What one attack spends, the choice of the weight apart."""
        return f"at most {most_iterations(self.iterations, self.starts)} iterations over {self.starts} starts"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`. Labels are those that the last layer's gradient gives away."""
        targets = self.targets(attacker)
        labels = {target.update.number: dealt(labels_in(attacker, target), target.sizes) for target in targets}
        first, space = targets[0], attacker.space
        chosen = self.tuned(first.gradient_of, attacker.auxiliary_unit, labels[first.update.number], space)

        def rebuild(target: Target, part: Progress) -> Reconstruction:
            known = labels[target.update.number]
            return chosen.reconstruct(target.gradient_of, target.gradients, known, space, part, target.sizes)

        return Findings(
            batches=rebuild_each(attacker, targets, rebuild, progress),
            budget=f"{self.budget}, total variation {chosen.total_variation_weights[0]:g}, {len(targets)} updates",
        )

    def targets(self, attacker: Attacker) -> list[Target]:
        """What is attacked, one after the other."""
        return whole_model_targets(attacker)

    def tuned(
        self,
        gradient_of: GradientOf,
        auxiliary_BCHW: Tensor | None,
        labels_B: Tensor,
        space: ImageSpace,
        progress: Progress = unwatched,
    ) -> "InvertingGradients":
        """This attack with the one weight that brings auxiliary images back best, by mean squared error.

        The attacker sends auxiliary unit images through the victim and attacks what comes out, with labels as in the
        batch to be attacked and few iterations: one choice serves every batch of that size from that victim. Without
        auxiliary images, or with fewer than labels, the first candidate is taken.
        """
        weights = self.total_variation_weights
        if auxiliary_BCHW is None or len(auxiliary_BCHW) < len(labels_B) or len(weights) == 1:
            return dataclasses.replace(self, total_variation_weights=weights[:1])
        images_BCHW = auxiliary_BCHW[: len(labels_B)]
        with torch.no_grad():
            seen = gradient_of(space.to_input(images_BCHW), labels_B)
        errors: dict[float, float] = {}
        for place, weight in enumerate(weights):
            trial = dataclasses.replace(
                self, total_variation_weights=(weight,), iterations=self.tuning_iterations, starts=1
            )
            part = partial(_part, progress, place, len(weights))
            found = trial.reconstruct(gradient_of, seen, labels_B, space, part)
            errors[weight] = float((found.unit_BCHW - images_BCHW.to(found.unit_BCHW)).square().mean())
        return dataclasses.replace(self, total_variation_weights=(min(errors, key=errors.__getitem__),))

    def reconstruct(
        self,
        gradient_of: GradientOf,
        seen: Gradients,
        labels_B: Tensor,
        space: ImageSpace,
        progress: Progress = unwatched,
        sizes: tuple[int, ...] = (),
    ) -> Reconstruction:
        """Rebuild the batch that gave one gradient.

        Args:
            gradient_of: The victim as the attacker runs it.
            seen: The gradient that crossed.
            labels_B: The batch's labels, as :data:`attacks.gradients.victim.GradientOf` takes them.
            space: Where the images lie.
            progress: Told the share of the work done.
            sizes: How many records each step held, where which record was in which step is not known.

        Returns:
            The batch; grey with a fit of 1 where the gradient is zero or not finite. Fit is the distance, at most 1.
        """
        seen = observed(seen)
        if carries_nothing(seen):
            return Reconstruction(unit_BCHW=space.grey(len(labels_B), device=seen[0].device), fit=1.0, iterations=0)
        draw = torch.Generator().manual_seed(self.seed)
        noise = [space.random(len(labels_B), draw).to(seen[0].device) for _ in range(self.starts)]
        descents = [_Matching(self, unit_BCHW, gradient_of, seen, labels_B, space, sizes) for unit_BCHW in noise]
        best, spent = successive_halving(descents, self.iterations, self.enough_fit, progress)
        return Reconstruction(unit_BCHW=best.point, fit=min(best.fit, 1.0), iterations=spent)


class _Matching:
    """Adam from one start."""

    def __init__(
        self,
        attack: InvertingGradients,
        unit_BCHW: Tensor,
        gradient_of: GradientOf,
        seen: Gradients,
        labels_B: Tensor,
        space: ImageSpace,
        sizes: tuple[int, ...],
    ) -> None:
        self.attack, self.gradient_of, self.seen, self.space = attack, gradient_of, seen, space
        self.labels_B = labels_B.clone()
        self.step_B = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
        self.draw = torch.Generator().manual_seed(attack.seed)
        self.guess_BCHW = unit_BCHW.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.guess_BCHW], lr=attack.learning_rate)
        self.done = 0
        self.fit, self.point = math.inf, unit_BCHW

    def run(self, iterations: int) -> int:
        for taken in range(iterations):
            remaining = (1 + math.cos(math.pi * self.done / self.attack.iterations)) / 2
            fit = self._distance()
            # The iterates end on a plateau: the last are the best up to noise, and the noise is what fit can tell.
            if float(fit.detach()) < self.fit:
                self.fit, self.point = float(fit.detach()), self.guess_BCHW.detach().clone()
            if self.fit <= self.attack.enough_fit:
                return taken
            prior = self.attack.total_variation_weights[0] * remaining * total_variation(self.guess_BCHW)
            (self.guess_BCHW.grad,) = torch.autograd.grad(fit + prior, [self.guess_BCHW])
            if self.attack.signed:
                self.guess_BCHW.grad.sign_()
            self.optimizer.param_groups[0]["lr"] = self.attack.learning_rate * remaining
            self.optimizer.step()
            with torch.no_grad():
                self.guess_BCHW.clamp_(0, 1)
            self.done += 1
            if self.done % _BETWEEN_EXCHANGES == 0 and len(self.step_B.unique()) > 1:
                self._exchange()
        return iterations

    def _exchange(self) -> None:
        """Let records change places, image and label together, where that explains the update better.

        It makes a difference to its gradient in which step a record was, and no small change of an image moves it.
        """
        with torch.no_grad():
            best = float(self._distance())
            for _ in range(self.attack.exchanges):
                one = int(torch.randint(len(self.step_B), (), generator=self.draw))
                elsewhere = (self.step_B != self.step_B[one]).nonzero().flatten()
                other = int(elsewhere[torch.randint(len(elsewhere), (), generator=self.draw)])
                self._swap(one, other)
                if (fit := float(self._distance())) < best:
                    best = fit
                else:
                    self._swap(one, other)

    def _swap(self, one: int, other: int) -> None:
        moments = [
            held for held in self.optimizer.state[self.guess_BCHW].values() if held.shape == self.guess_BCHW.shape
        ]
        for tensor in (self.guess_BCHW, self.labels_B, *moments):
            tensor[[one, other]] = tensor[[other, one]]

    def _distance(self) -> Tensor:
        gradients = self.gradient_of(self.space.to_input(self.guess_BCHW), self.labels_B)
        if self.attack.distance is Distance.COSINE:
            return cosine_distance(gradients, self.seen)
        return direction_distance(gradients, self.seen)


def total_variation(unit_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across (Geiping et al. 2020)."""
    down = (unit_BCHW[..., 1:, :] - unit_BCHW[..., :-1, :]).abs()
    across = (unit_BCHW[..., :, 1:] - unit_BCHW[..., :, :-1]).abs()
    # Images one pixel high or wide have no neighbours that way.
    return down.sum() / max(down.numel(), 1) + across.sum() / max(across.numel(), 1)


def _part(progress: Progress, place: int, places: int, share: float) -> None:
    progress((place + share) / places)
