"""The convergence bound against what really happens, on a problem of which everything is known.

Client i has f_i(w) = ½ Σ_l h_il (w_l - m_il)², every layer being one number; its gradient of a batch of b comes with
normal noise of variance σ_l²/b. Layers before the cut are averaged every I steps, the others at every step.
"""

import math

import numpy as np
import pytest

from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.statistics import GradientStatistics

CLIENTS, LAYERS, STEPS, RATE, BETA = 5, 6, 400, 0.02, 2.0


class Quadratic:
    def __init__(self, seed, noise):
        draw = np.random.default_rng(seed)
        self.curvature = draw.uniform(0.2, BETA, (CLIENTS, LAYERS))
        self.center = draw.normal(0, 1, (CLIENTS, LAYERS))
        self.noise = np.full(LAYERS, noise)
        self.best = (self.curvature * self.center).sum(axis=0) / self.curvature.sum(axis=0)

    def loss(self, weights):
        return 0.5 * float((self.curvature * (weights - self.center) ** 2).sum(axis=1).mean())

    def trained(self, *, interval, batch_size, cut, start, runs=40):
        """(1/R) Σ_t E‖∇f(w_t)‖² of the averaged weights, and the largest second moment of each layer's gradients."""
        draw = np.random.default_rng(1)
        weights = np.broadcast_to(start, (runs, CLIENTS, LAYERS)).copy()
        squared, moment = 0.0, np.zeros(LAYERS)
        for step in range(1, STEPS + 1):
            average = weights.mean(axis=1, keepdims=True)
            gradient_of_all = (self.curvature * (average - self.center)).mean(axis=1)
            squared += float((gradient_of_all**2).sum(axis=1).mean()) / STEPS
            noise = draw.normal(0, 1, weights.shape) * self.noise / np.sqrt(batch_size)[:, None]
            gradient = self.curvature * (weights - self.center) + noise
            moment = np.maximum(moment, (gradient**2).mean(axis=0).max(axis=0))
            weights -= RATE * gradient
            averaged = weights.mean(axis=1, keepdims=True)
            weights[:, :, cut:] = averaged[:, :, cut:]
            if step % interval == 0:
                weights[:] = averaged
        return squared, moment

    def bound(self, *, interval, start, moment):
        drifting = np.concatenate([[0.0], np.cumsum(moment)])  # of the first l layers, if the cut is after them
        statistics = GradientStatistics(
            smoothness=BETA,
            variance=max(float((self.noise**2).sum()), 1e-12),
            second_moment=drifting,
            loss_gap=max(self.loss(start) - self.loss(self.best), 1e-12),
        )
        return Bound(statistics=statistics, learning_rate=RATE, interval=interval, clients=CLIENTS, target=math.inf)


@pytest.mark.parametrize("interval", [1, 5, 20])
@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_the_bound_holds(interval, batch_size, cut):
    """2ϑ/(γR) + V + D, with G² as large as a gradient ever was."""
    problem = Quadratic(0, noise=2.0)
    batch = np.full(CLIENTS, batch_size)
    for start in (problem.best, problem.best + 3.0):
        squared, moment = problem.trained(interval=interval, batch_size=batch, cut=cut, start=start)
        bound = problem.bound(interval=interval, start=start, moment=moment)
        first = 2 * bound.statistics.loss_gap / (RATE * STEPS)
        assert squared <= first + bound.variance(batch) + bound.drift[cut]


def test_what_the_variance_adds_falls_with_the_batch():
    """As 1/b, bound and truth: from the best weights on, and averaged at every step, noise is all there is."""
    problem = Quadratic(0, noise=2.0)
    found = [
        problem.trained(interval=1, batch_size=np.full(CLIENTS, size), cut=3, start=problem.best)[0]
        for size in (1, 4, 16)
    ]
    assert found[0] / found[1] == pytest.approx(4, rel=1e-6)
    assert found[1] / found[2] == pytest.approx(4, rel=1e-6)
    bound = problem.bound(interval=1, start=problem.best, moment=np.ones(LAYERS))
    assert bound.variance(np.full(CLIENTS, 1)) / bound.variance(np.full(CLIENTS, 4)) == pytest.approx(4)


def test_what_drift_adds_grows_with_interval_and_cut():
    """From the best weights on, and without noise, drift is all there is; none at I = 1, as in the bound."""
    problem = Quadratic(0, noise=0.0)

    def found(interval, cut):
        batch = np.ones(CLIENTS)
        return problem.trained(interval=interval, batch_size=batch, cut=cut, start=problem.best, runs=1)[0]

    assert found(1, 6) < 1e-25
    assert found(2, 6) < found(5, 6) < found(20, 6)
    by_cut = [found(10, cut) for cut in range(LAYERS + 1)]
    assert by_cut[0] < 1e-25
    assert (np.diff(by_cut) > 0).all()
    drift = problem.bound(interval=10, start=problem.best, moment=np.ones(LAYERS)).drift
    assert (np.diff(drift) > 0).all()
    assert (problem.bound(interval=20, start=problem.best, moment=np.ones(LAYERS)).drift[1:] / drift[1:] == 4).all()
    assert not problem.bound(interval=1, start=problem.best, moment=np.ones(LAYERS)).drift.any()


def test_steps_to_the_target_by_hand():
    """β = 2, γ = 0.02, N = 5, Σσ² = 24, b = 4: V = 0.04/25 · 24 · 5/4 = 0.048. I = 5, ΣG² = 3: D = 4·0.04²·25·3 = 0.48.

    With ε = 1.528 the slack is 1, and with ϑ = 0.5 it takes 2 · 0.5/0.02 = 50 steps; with ε = 0.5, for ever."""
    statistics = GradientStatistics(smoothness=2.0, variance=24.0, second_moment=np.array([0.0, 3.0]), loss_gap=0.5)
    reached, missed = (
        Bound(statistics=statistics, learning_rate=0.02, interval=5, clients=5, target=target)
        for target in (1.528, 0.5)
    )
    batch = np.full(5, 4)
    assert reached.steps(batch, 1) == pytest.approx(50)
    assert missed.steps(batch, 1) == math.inf
