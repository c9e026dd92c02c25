"""Images from a few linear measurements of a gradient: what is most likely given what images look like."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker
from attacks.images import ImageSpace
from attacks.reconstruction import Progress, Reconstruction, unwatched
from attacks.scalars.messages import OF_SCALARS, last_measurements
from attacks.scalars.prior import Prior
from attacks.scalars.probed import Probed
from attacks.threat import ThreatModel

_HALVINGS = 5
"""How often a step may be halved until it explains more."""
_LEAST_GAIN = 0.9
"""A step that leaves more than this share unexplained is the last."""
_FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvertingScalars:
    """The images of highest posterior density given the scalars: Gauss-Newton with a Gaussian prior.

    P scalars are P equations for the B·C·H·W pixels of a batch, and linear ones wherever the half is linear in its
    input: with as many as pixels they give the images, with 5 of them hardly anything beyond the mean. What they leave
    open, mean and covariance of auxiliary images fill in:

        x ← m + C Jᵀ (J C Jᵀ + σ²)⁻¹ (s − s(x) + J (x − m)),   J = ∂s/∂x,

    the iterated Kalman update (Bell and Cathey 1993), halved as long as it does not explain s better. σ is the rounding
    error of s. Ours: we know of no published attack on these messages.

    Args:
        iterations: Updates, each P + 1 forward and backward passes.
    """

    iterations: int = 6

    name: ClassVar[str] = "inverting scalars"
    needs: ClassVar[ThreatModel] = OF_SCALARS

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} is not accepted: give an integer of at least 1.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"at most {self.iterations} Gauss-Newton steps"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        measured, space = last_measurements(attacker), attacker.space
        prior = Prior.of(attacker.auxiliary_unit, space)
        found: list[RebuiltBatch] = []
        for place, one in enumerate(measured):
            made = self.reconstruct(one.scalars_P, one.probed, prior, space)
            images = space.to_input(made.unit_BCHW)
            found.append(RebuiltBatch(number=one.number, images_BCHW=images, in_order=True, fit=made.fit))
            progress((place + 1) / len(measured))
        first = measured[0]
        pixels = math.prod(space.shape_CHW) * first.records
        return Findings(
            batches=tuple(found),
            budget=f"{self.budget}; {len(first.scalars_P)} scalars for {pixels} pixels; {len(measured)} batches",
        )

    def reconstruct(
        self, scalars_P: Tensor, probed: Probed, prior: Prior, space: ImageSpace, progress: Progress = unwatched
    ) -> Reconstruction:
        """Rebuild a batch.

        Args:
            scalars_P: What was sent.
            probed: The client as the attacker runs it.
            prior: What images look like.
            space: Where they lie.
            progress: Told the share of the work done.

        Returns:
            The batch; its prior mean with a fit of 1 where the scalars are all zero or not all finite.
        """
        sent_P = scalars_P.double()
        mean_BCHW = prior.mean_CHW.expand(probed.records, *space.shape_CHW)
        if not bool(sent_P.any()) or not bool(sent_P.isfinite().all()):
            return Reconstruction(unit_BCHW=mean_BCHW, fit=1.0, iterations=0)
        point_BCHW, (made_P, slopes_PBN) = mean_BCHW, probed.with_slopes(mean_BCHW)
        steps = 0
        while steps < self.iterations:
            before = float((sent_P - made_P).norm())
            noise = probed.rounding(point_BCHW) + _FLOAT32_EPS * float(sent_P.norm())
            goal_BCHW = prior.given(slopes_PBN, sent_P - made_P, point_BCHW, noise)
            for halvings in range(_HALVINGS):
                tried_BCHW = point_BCHW.lerp(goal_BCHW, 0.5**halvings)
                tried_P, tried_PBN = probed.with_slopes(tried_BCHW)
                if (left := float((sent_P - tried_P).norm())) < before:
                    break
            else:
                break  # nothing on the way explains more
            point_BCHW, made_P, slopes_PBN = tried_BCHW, tried_P, tried_PBN
            steps += 1
            progress(steps / self.iterations)
            # Down to rounding there is nothing left to explain.
            if left <= noise * len(sent_P) ** 0.5 or left > _LEAST_GAIN * before:
                break
        progress(1.0)
        return Reconstruction(unit_BCHW=point_BCHW, fit=min(1.0, _relative(sent_P - made_P, sent_P)), iterations=steps)


def _relative(apart_P: Tensor, sent_P: Tensor) -> float:
    return float(apart_P.square().sum() / sent_P.square().sum())
