"""The convergence bound that HASFL and ASFL decide by: how many steps it takes until the gradient is small.

After R steps of step size γ, with batches b_i of N clients and layers that are averaged only every I steps,

    (1/R) Σ_t E‖∇f(w_t)‖² ≤ 2ϑ/(γR) + (βγ/N²) Σ_i Σ_l σ_l²/b_i + 1{I > 1} · 4β²γ²I² Σ_{l drifts} G_l²

(AdaptSFL, arXiv 2403.13101, and HASFL, arXiv 2506.08426, as recalled; it is the bound of Yu, Yang and Zhu 2019 for
local SGD, with the last term restricted to the layers that drift apart between averages). Which layers these are
follows from what the algorithm averages when: in ``splitfed_shared`` those before the deepest cut, in ``splitfed_v1``
and ``fedavg`` all, in ``split_learning`` and with clients that are alike at any time none.
"""

import dataclasses
import math

import numpy as np

from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.arrays import FloatArray, IntArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bound:
    """The bound for N clients.

    Attributes:
        statistics: β, σ², G² and ϑ.
        learning_rate: γ.
        interval: I, steps between two aggregations.
        clients: N.
        target: ε, the mean squared gradient norm that is to be reached.
    """

    statistics: GradientStatistics
    learning_rate: float
    interval: int
    clients: int
    target: float

    @property
    def variance_factor(self) -> float:
        """What every 1/b_i is multiplied by: βγ/N² · Σ_l σ_l²."""
        found = self.statistics
        return found.smoothness * self.learning_rate / self.clients**2 * found.variance

    def variance(self, batch_size: IntArray | FloatArray) -> float:
        """What is left of the gradients' variance with batches (N,)."""
        return self.variance_factor * float((1.0 / batch_size).sum())

    @property
    def drift(self) -> FloatArray:
        """What the drift between averages adds, if a cut is the deepest, (C,)."""
        if self.interval == 1:
            return np.zeros_like(self.statistics.second_moment)
        factor = 4.0 * (self.statistics.smoothness * self.learning_rate * self.interval) ** 2
        return factor * self.statistics.second_moment

    def slack(self, batch_size: IntArray | FloatArray, deepest: int) -> float:
        """What the first term may be, ε - V - D; the target is out of reach unless it is above 0."""
        return self.target - self.variance(batch_size) - float(self.drift[deepest])

    def steps(self, batch_size: IntArray | FloatArray, deepest: int) -> float:
        """R = 2ϑ / (γ (ε - V - D)): steps until the target is reached; infinite where it is out of reach."""
        slack = self.slack(batch_size, deepest)
        return 2.0 * self.statistics.loss_gap / (self.learning_rate * slack) if slack > 0 else math.inf
