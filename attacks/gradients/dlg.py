"""Deep leakage from gradients: images and labels whose gradient is the observed one, found together."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.attack import Findings
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.last_layer import last_bias
from attacks.gradients.messages import OF_UPDATES, Target, rebuild_each, whole_model_targets
from attacks.gradients.starts import most_iterations, successive_halving
from attacks.gradients.victim import GradientOf, Gradients, carries_nothing, observed, squared_distance
from attacks.images import ImageSpace
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.threat import ThreatModel

_SCALE = 1e6
"""PyTorch's L-BFGS forgets curvature pairs whose product is below 1e-10, which those near the images would be."""

_CERTAIN = 0.99
"""Share of one class from which a label is taken for that class."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledReconstruction:
    """Images and labels that were found together.

    Attributes:
        images: The rebuilt batch.
        shares_BK: Share of each class in each record's label, as optimised.
    """

    images: Reconstruction
    shares_BK: Tensor

    @property
    def labels_B(self) -> Tensor:
        """The most likely class of each record."""
        return self.shares_BK.argmax(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepLeakage:
    """Gradient matching by L-BFGS on images and soft labels jointly.

    Zhu, Liu and Han 2019, "Deep Leakage from Gradients": minimise ‖∇L(x, softmax(y)) − g*‖² from
    x, y ~ N(0, 1), without a prior. The victim must be smooth (sigmoids, strides instead of pooling). A start either
    finds the images to float precision or ends far off, and the distance tells which, so several are tried. Ours: the
    distance is divided by ‖g*‖², a line search (strong Wolfe conditions) lets starts succeed that unit steps lose,
    worse starts are given up early, labels beyond doubt are made whole (a softmax only tends to that, and the images
    wait for it), and the box is entered at the end only.

    Args:
        classes: K; an audit takes it from the model's last layer.
        iterations: Outer steps of the start that is followed to the end; images that hardly move the gradient take 800.
        inner_iterations: Steps of L-BFGS in an outer one.
        history: Curvature pairs that L-BFGS keeps.
        starts: How many starts.
        enough_fit: Stop when ‖g − g*‖² / ‖g*‖² falls below this.
        seed: Seeds the starts.
    """

    classes: int = 10
    iterations: int = 100
    inner_iterations: int = 20
    history: int = 100
    starts: int = 2
    enough_fit: float = 3e-11
    seed: int = 0

    name: ClassVar[str] = "deep leakage from gradients"
    needs: ClassVar[ThreatModel] = OF_UPDATES

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("iterations", 1), ("inner_iterations", 1), ("history", 1), ("starts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} is not accepted: give an integer of at least {least}.")
        if not 0 <= self.enough_fit < 1:
            raise ValueError(f"enough_fit={self.enough_fit} is not accepted: give a number from 0 to below 1.")

    @property
    def budget(self) -> str:
        """What one attack spends."""
        outer = most_iterations(self.iterations, self.starts)
        return f"at most {outer * self.inner_iterations} iterations of L-BFGS over {self.starts} starts"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`. Updates of one step each are attacked."""
        targets = [target for target in whole_model_targets(attacker) if len(target.sizes) == 1]
        if not targets:
            raise UnavailableError("it matches the gradient of one step, and every update stems from several.")
        first = targets[0]
        attack = dataclasses.replace(self, classes=len(first.gradients[first.names.index(last_bias(attacker, first))]))
        attack._check_takes_shares(first, attacker.space)

        def rebuild(target: Target, part: Progress) -> Reconstruction:
            return attack.reconstruct(target.gradient_of, target.gradients, target.records, attacker.space, part).images

        return Findings(
            batches=rebuild_each(attacker, targets, rebuild, progress), budget=f"{self.budget}, {len(targets)} updates"
        )

    def _check_takes_shares(self, target: Target, space: ImageSpace) -> None:
        shares_BK = torch.full((target.records, self.classes), 1 / self.classes)
        try:
            with torch.no_grad():
                target.gradient_of(space.to_input(space.grey(target.records)), shares_BK)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UnavailableError(f"the training step takes no shares of classes as labels ({error}).") from error

    def reconstruct(
        self,
        gradient_of: GradientOf,
        seen: Gradients,
        records: int,
        space: ImageSpace,
        progress: Progress = unwatched,
    ) -> LabelledReconstruction:
        """Rebuild the batch that gave one gradient.

        Args:
            gradient_of: The victim as the attacker runs it, best in 64 bits: rounding in 32 ends the search early where
                images are ill determined. Its loss must take shares of classes as labels.
            seen: The gradient that crossed.
            records: How many records the batch has.
            space: Where the images lie.
            progress: Told the share of the work done.

        Returns:
            The batch, its labels being those that were optimised with it; grey with a fit of 1 and equal shares where
            the gradient is zero or not finite, or where no start leads anywhere finite.
        """
        seen = observed(seen)
        device = seen[0].device
        nothing = LabelledReconstruction(
            images=Reconstruction(unit_BCHW=space.grey(records, device=device), fit=1.0, iterations=0),
            shares_BK=torch.full((records, self.classes), 1 / self.classes, device=device),
        )
        if carries_nothing(seen):
            return nothing
        draw = torch.Generator().manual_seed(self.seed)
        descents = []
        for _ in range(self.starts):
            input_BCHW = torch.randn((records, *space.shape_CHW), generator=draw, dtype=torch.float64)
            scores_BK = torch.randn((records, self.classes), generator=draw, dtype=torch.float64)
            descents.append(_Matching(self, input_BCHW.to(device), scores_BK.to(device), gradient_of, seen, space))
        best, spent = successive_halving(descents, self.iterations, self.enough_fit, progress)
        if not math.isfinite(best.fit):
            return dataclasses.replace(nothing, images=dataclasses.replace(nothing.images, iterations=spent))
        return LabelledReconstruction(
            images=Reconstruction(unit_BCHW=best.unit_BCHW, fit=min(best.fit, 1.0), iterations=spent),
            shares_BK=best.shares_BK,
        )


class _Matching:
    """L-BFGS from one start."""

    def __init__(
        self,
        attack: DeepLeakage,
        input_BCHW: Tensor,
        scores_BK: Tensor,
        gradient_of: GradientOf,
        seen: Gradients,
        space: ImageSpace,
    ) -> None:
        self.attack, self.gradient_of, self.seen, self.space = attack, gradient_of, seen, space
        self.input_BCHW, self.scores_BK = input_BCHW.requires_grad_(), scores_BK.requires_grad_()
        self.certain = False
        self._search([self.input_BCHW, self.scores_BK])
        self.fit = math.inf
        self._keep()

    def run(self, iterations: int) -> int:
        for taken in range(iterations):
            self._settle_labels()
            self.optimizer.step(self._closure)
            fit = float(self._closure()) / _SCALE
            if not math.isfinite(fit):
                # It has left for infinity, from where nothing comes back; what it had found before is kept.
                return taken + 1
            if fit < self.fit:
                self.fit = fit
                self._keep()
            if self.fit <= self.attack.enough_fit:
                return taken + 1
        return iterations

    def _search(self, guess: list[Tensor]) -> None:
        self.guess = guess
        self.optimizer = torch.optim.LBFGS(
            guess,
            max_iter=self.attack.inner_iterations,
            history_size=self.attack.history,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

    def _shares(self) -> Tensor:
        shares_BK = self.scores_BK.softmax(1)
        return one_hot(shares_BK.argmax(1), self.attack.classes).to(shares_BK) if self.certain else shares_BK

    def _settle_labels(self) -> None:
        """Search on for the images alone once the labels are beyond doubt: a softmax never gets to 1."""
        if not self.certain and bool((self.scores_BK.detach().softmax(1).amax(1) > _CERTAIN).all()):
            self.certain = True
            self._search([self.input_BCHW])

    def _keep(self) -> None:
        # Labels are kept with the images they were optimised with: the start's would be right by chance only.
        self.unit_BCHW = self.space.to_unit(self.input_BCHW.detach()).clamp(0, 1).float()
        self.shares_BK = self._shares().detach().float()

    def _closure(self) -> Tensor:
        distance = squared_distance(self.gradient_of(self.input_BCHW, self._shares()), self.seen)
        for tensor, slope in zip(self.guess, torch.autograd.grad(_SCALE * distance, self.guess), strict=True):
            tensor.grad = slope
        return _SCALE * distance.detach()
