"""What the convergence bound needs of gradients, as measured or, before that, as assumed."""

import dataclasses
import math

import numpy as np

from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.model.profile import Profile

_ASSUMED_SMOOTHNESS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GradientStatistics:
    """The constants of the convergence bound (papers of AdaptSFL and HASFL; see :mod:`lightning_sfl.policies.bound`).

    Attributes:
        smoothness: β: the gradient changes at most β times as much as the weights.
        variance: Σ_l σ_l²: the variance of the gradient of one sample, summed over all layers.
        second_moment: Σ_l G_l² over the layers that are averaged only once in a round if this cut is the deepest,
            for every cut of the profile, (C,). What is averaged when is the algorithm's.
        loss_gap: ϑ = f(w) - f*: how far the loss is from its least value, for which 0 is taken.
        is_measured: Whether it was measured; else it is the default of :func:`assumed`.
    """

    smoothness: float
    variance: float
    second_moment: FloatArray
    loss_gap: float
    is_measured: bool = True

    def __post_init__(self) -> None:
        for name in ("smoothness", "variance", "loss_gap"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"GradientStatistics({name}={value!r}) is not accepted: give a number above 0.")
        if not (np.isfinite(self.second_moment).all() and (self.second_moment >= 0).all()):
            raise ValueError(
                f"GradientStatistics(second_moment={self.second_moment!r}) is not accepted: give numbers of at least 0."
            )


def assumed(profile: Profile, drifting_parameters: FloatArray) -> GradientStatistics:
    """What is taken for granted before anything was measured; our choice, and not a paper's.

    Every trained parameter counts alike in second moment and in variance, and both are scaled so that they matter: a
    squared gradient of 1 in all, of which one sample's variance is 16 times as much. β is 10 and ϑ is 1.

    Args:
        profile: The model.
        drifting_parameters: How many trained parameters are averaged only once in a round if a cut is the deepest, for
            every cut of the profile, (C,).
    """
    whole = profile if profile.whole is None else profile.whole
    total = max(float(whole.update_parameters.max()), float(drifting_parameters.max()), 1.0)
    return GradientStatistics(
        smoothness=_ASSUMED_SMOOTHNESS,
        variance=16.0,
        second_moment=drifting_parameters / total,
        loss_gap=1.0,
        is_measured=False,
    )
