"""What a run shows a policy: gradients as they pass, and what rounds cost."""

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.policies.moments import GradientMoments
from lightning_sfl.policies.observation import Passed
from lightning_sfl.policies.statistics import GradientStatistics, assumed
from lightning_sfl.strategy.split_federated import SplitFederatedStrategy
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.model.profile import Profile


class ObservedGradients:
    """Estimates what the convergence bound needs, from the gradients of all parties."""

    def __init__(self) -> None:
        self._moments = GradientMoments()
        self._loss_sum, self._losses, self._loss = 0.0, 0, 0.0
        self._sizes: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._round = -1
        self._begins_round = False

    def begin_batch(self, batch: ClientBatches) -> None:
        """A batch of every participant is about to be trained on."""
        if batch.begins_optimizer_step:
            self._sizes = {}
            self._begins_round = batch.round != self._round
            self._round = batch.round
        for client, size in batch.sizes().items():
            self._sizes[client] = self._sizes.get(client, 0) + size
            self._seen[client] = self._seen.get(client, 0) + size

    def add(self, module: pl.LightningModule, strategy: SplitFederatedStrategy, optimizer: Optimizer) -> None:
        """Add the gradients of the party whose optimizer is about to step."""
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        client = strategy.owners.get(optimizer)
        if client is not None:
            self._moments.add(gradients, 1 / self._sizes[client])
        elif strategy.weighting == "uniform":
            self._moments.add(gradients, self._mean_inverse() / len(self._sizes))
        else:
            self._moments.add(gradients, 1 / sum(self._sizes.values()))

    def end_batch(self, loss: float | None, *, stepped: bool) -> None:
        """The batch was trained on.

        Args:
            loss: Its loss; None if it was skipped.
            stepped: Whether the optimizers have stepped.
        """
        if loss is not None and math.isfinite(loss):
            self._loss_sum, self._losses = self._loss_sum + loss, self._losses + 1
        if stepped and self._sizes:
            self._moments.end_step(self._mean_inverse(), begins_round=self._begins_round)
            self._begins_round = False

    def statistics(
        self, module: pl.LightningModule, strategy: SplitFederatedStrategy, profile: Profile
    ) -> GradientStatistics:
        """What is known by now; where something is not, the default of :func:`assumed` stands in for it."""
        trained: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        owned = [[name for name in strategy.owned_at(cut) if name in trained] for cut in profile.cuts]
        defaults = assumed(profile, _sums(owned, {name: float(p.numel()) for name, p in trained.items()}))
        layers = self._moments.layers()
        smoothness = self._moments.smoothness
        variance = math.fsum(layers[name].variance for name in trained if name in layers)
        knows_layers = trained.keys() <= layers.keys() and variance > 0
        return GradientStatistics(
            smoothness=smoothness or defaults.smoothness,
            variance=variance if knows_layers else defaults.variance,
            second_moment=_sums(owned, {name: layer.second_moment for name, layer in layers.items()})
            if knows_layers
            else defaults.second_moment,
            loss_gap=self._loss if self._loss > 0 else defaults.loss_gap,
            is_measured=knows_layers and smoothness is not None and self._loss > 0,
        )

    def end_interval(self, module: pl.LightningModule, strategy: SplitFederatedStrategy) -> None:
        """A decision is due: the model's weights are the global ones, its loss the mean since the last one."""
        held = sum(strategy.samples_held(client) for client in self._seen)
        share = sum(self._seen.values()) / held if held else 0.0
        self._moments.end_interval({name: p.detach() for name, p in module.named_parameters()}, share)
        self._seen = {}
        self._loss = self._loss_sum / self._losses if self._losses else 0.0
        self._loss_sum, self._losses = 0.0, 0

    def _mean_inverse(self) -> float:
        return sum(1 / size for size in self._sizes.values()) / len(self._sizes)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain Python."""
        return {
            "moments": self._moments.state_dict(),
            "loss": (self._loss_sum, self._losses, self._loss),
            "sizes": dict(self._sizes),
            "seen": dict(self._seen),
            "round": self._round,
            "begins_round": self._begins_round,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._moments.load_state_dict(state["moments"])
        self._loss_sum, self._losses, self._loss = state["loss"]
        self._sizes, self._seen, self._round = dict(state["sizes"]), dict(state["seen"]), state["round"]
        self._begins_round = state["begins_round"]


class ObservedRounds:
    """What every round since the last decision has cost, read off the simulated clock."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._joule: dict[int, float] = {}
        self._passed: list[tuple[int, float, list[int], list[float]]] = []

    def end_round(self, clock: Clock, round: int, participants: tuple[int, ...]) -> None:
        """A round is over."""
        now = {
            client: clock.client_compute_joule.get(client, 0.0) + clock.client_radio_joule.get(client, 0.0)
            for client in participants
        }
        joule = [now[client] - self._joule.get(client, 0.0) for client in participants]
        self._passed.append((round, clock.seconds - self._seconds, list(participants), joule))
        self._seconds = clock.seconds
        self._joule |= now

    def taken(self) -> list[Passed]:
        """The rounds, which are then forgotten."""
        passed, self._passed = self._passed, []
        return [
            Passed(round=round, delay_s=delay_s, clients=np.array(clients), joule=np.array(joule))
            for round, delay_s, clients, joule in passed
        ]

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain Python."""
        return {"seconds": self._seconds, "joule": dict(self._joule), "passed": list(self._passed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._seconds, self._joule, self._passed = state["seconds"], dict(state["joule"]), list(state["passed"])


def _sums(owned: list[list[str]], values: Mapping[str, float]) -> FloatArray:
    return np.array([math.fsum(values.get(name, 0.0) for name in names) for names in owned])
