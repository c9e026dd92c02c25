"""The clients' estimate, as it reaches the optimizer in a real fit: its error and its bias."""

import math

import numpy as np
import pytest
import torch
from round_cases import data, train
from sfl_models import Classifier
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl.algorithms import HOSFL
from lightning_sfl.zeroth_order.directions import Distribution


class Estimates(Classifier):
    """Never moves, and notes what the clients' optimizer is given for the first layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.double(), lambda parameters: torch.optim.SGD(parameters, lr=0.0), schedule=False)
        self.seen: list[torch.Tensor] = []

    def on_before_optimizer_step(self, optimizer):
        if (grad := self.model[0].weight.grad) is not None:
            self.seen.append(grad.detach().clone())

    def gradient(self) -> torch.Tensor:
        """By backpropagation, on all data."""
        x, y = data(18)
        (found,) = torch.autograd.grad(cross_entropy(self.model(x), y), self.model[0].weight)
        return found


def estimated(module: Estimates, algorithm: HOSFL, steps: int) -> torch.Tensor:
    """One estimate per step, of one client with all data in every batch."""
    train("model.0", algorithm=algorithm, module=module, steps=steps, parts=[[*range(18)]], batch_size=18)
    assert len(module.seen) == steps
    return torch.stack(module.seen)


@pytest.mark.parametrize(("distribution", "probes"), [(Distribution.GAUSSIAN, 1), (Distribution.RADEMACHER, 3)])
def test_the_error_of_a_linear_client_is_kappa(distribution, probes):
    """E‖ĝ − g‖² = κ‖g‖² with d = 18 (HO-FL, eq. 40), whatever μ is; within 5 standard errors of the sample."""
    torch.manual_seed(0)
    module = Estimates(nn.Sequential(nn.Linear(6, 3, bias=False), nn.Tanh(), nn.Linear(3, 3)))
    found = estimated(module, HOSFL(probes=probes, mu=0.5, distribution=distribution), 300)
    g = module.gradient()
    errors = ((found - g) ** 2).sum((1, 2)) / (g**2).sum()
    assert abs(float(errors.mean()) - distribution.kappa(18, probes)) < 5 * float(errors.std()) / math.sqrt(300)
    spread = found.std(0) / math.sqrt(300)
    assert bool(((found.mean(0) - g).abs() < 5 * spread).all())


class Wave(nn.Module):
    """sin(wᵀx) of two of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))

    def forward(self, x):
        return torch.sin(x[:, :2] @ self.weight)[:, None]


@pytest.mark.slow
def test_the_bias_of_a_client_that_is_not_linear_is_within_its_bound():
    """With d = 2 the expectation of ĝ is an integral of the surrogate, which quadrature gives to ten digits.

    L(w) = Σ λᵢ sin(wᵀxᵢ) has the Hessian −Σ λᵢ sin(wᵀxᵢ) xᵢxᵢᵀ, so its gradient is Lipschitz with L ≤ Σ |λᵢ|‖xᵢ‖², and
    ‖E ĝ − g‖ ≤ μ L √d (HO-FL, lemma C.5). At μ = 0.8 there is a bias to be seen: smoothing by Gaussian numbers takes
    sin(wᵀx) down by exp(−μ²‖x‖²/2). The mean of 4,000 directions is at the integral, and 5 standard errors off g.
    """
    mu, probes, steps = 0.8, 20, 200
    torch.manual_seed(0)
    module = Estimates(nn.Sequential(Wave(), nn.Tanh(), nn.Linear(1, 3)))
    found = estimated(module, HOSFL(probes=probes, mu=mu), steps)
    g, (x, y) = module.gradient(), data(18)
    z = module.model[0](x).detach().requires_grad_()
    (lam,) = torch.autograd.grad(cross_entropy(module.model[1:](z), y), z)
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    u = torch.tensor(np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2))
    share = torch.tensor(np.outer(weights, weights).reshape(-1) / (2 * math.pi))
    w = module.model[0].weight.detach()
    moved = torch.sin(x[:, :2] @ (w + mu * u).T) - torch.sin(x[:, :2] @ w)[:, None]
    expected = ((lam.T @ moved)[0] / mu * share) @ u
    lipschitz = float((lam[:, 0].abs() * (x[:, :2] ** 2).sum(1)).sum())
    assert float((expected - g).norm()) < mu * lipschitz * math.sqrt(2)
    spread = found.std(0) / math.sqrt(steps)
    assert bool(((found.mean(0) - expected).abs() < 5 * spread).all())
    assert bool(((found.mean(0) - g).abs() > 5 * spread).any())
