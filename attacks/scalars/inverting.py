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

_LEAST_STEP = 1 / 64
_FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvertingScalars:
    """The images of highest posterior density given the scalars: Gauss-Newton with a Gaussian prior.

    P scalars are P equations for the B·C·H·W pixels of a batch, and linear ones wherever the half is linear in its
    input: with as many as pixels they give the images, with 5 of them hardly anything beyond the mean. What they leave
    open, mean and covariance of auxiliary images fill in:

        x ← m + C Jᵀ (J C Jᵀ + σ²)⁻¹ (s − s(x) + J (x − m)),   J = ∂s/∂x,

    the iterated Kalman update (Bell and Cathey 1993), halved as long as it does not explain s better. σ is the rounding
    error of s. Ours: nobody has published an attack on these messages.

    Args:
        iterations: Updates, each P + 1 forward and backward passes.
        enough: Stop when the relative squared distance to the scalars is not above this.
    """

    iterations: int = 6
    enough: float = 1e-12

    name: ClassVar[str] = "inverting scalars"
    needs: ClassVar[ThreatModel] = OF_SCALARS

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} is not accepted: give an integer of at least 1.")
        if not self.enough >= 0:
            raise ValueError(f"enough={self.enough} is not accepted: give a number of at least 0.")

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
        point_BCHW = mean_BCHW
        apart_P = sent_P - probed.scalars(point_BCHW)
        steps = 0
        while steps < self.iterations and _relative(apart_P, sent_P) > self.enough:
            steps += 1
            slopes_PBN = probed.slopes(point_BCHW)
            noise = probed.rounding(point_BCHW) + _FLOAT32_EPS * float(sent_P.norm())
            goal_BCHW = prior.given(slopes_PBN, apart_P, point_BCHW, noise)
            share = 1.0
            while share >= _LEAST_STEP:
                tried_BCHW = point_BCHW + share * (goal_BCHW - point_BCHW)
                tried_P = sent_P - probed.scalars(tried_BCHW)
                if float(tried_P.norm()) < float(apart_P.norm()):
                    break
                share /= 2
            else:
                break
            point_BCHW, apart_P = tried_BCHW, tried_P
            progress(steps / self.iterations)
        progress(1.0)
        return Reconstruction(unit_BCHW=point_BCHW, fit=min(1.0, _relative(apart_P, sent_P)), iterations=steps)


def _relative(apart_P: Tensor, sent_P: Tensor) -> float:
    return float(apart_P.square().sum() / sent_P.square().sum())
