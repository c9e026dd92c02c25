"""Variance, second moment and smoothness of a run's gradients, estimated from those that it makes anyway.

What would take a buffer of a layer's size is taken of some of its entries, drawn once, and scaled up; of a layer of up
to 4,096 entries it is exact. Which gradients are compared (HASFL, arXiv 2506.08426, estimates from mini-batch
gradients; how is a reconstruction):

* σ²: of layers that clients own, those of different clients at the first step of a round, when all have the same
  weights, so it holds what their data differ by as well; of layers that have one gradient in a step, those of
  consecutive steps, between which weights hardly move. Both are brought to batches of one sample.
* G²: the mean squared norm; where a layer has one gradient for all clients, it is brought to a client's batch.
* β: by how much the mean gradient of one interval differs from that of the interval before, less what chance explains,
  to how much the weights do, over all intervals (after Wang et al. 2019); as it was when it was last told from chance.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sfl.random import generator

_ENTRIES = 4096
_TOLD = 0.1  # of what chance explains: how much more gradients must have changed
_Gradients = Mapping[str, Tensor]


@dataclasses.dataclass
class _Layer:
    """What is known of one layer."""

    squares: float = 0.0
    gradients: int = 0
    spread: float = 0.0
    spread_weight: float = 0.0
    mean: Tensor | None = None
    steps: int = 0
    chance: float = 0.0
    spread_before: float = 0.0
    spread_weight_before: float = 0.0
    last: Tensor | None = None
    last_inverse: float = 0.0

    def forget_interval(self) -> None:
        """Begin the next interval's mean and variance; the rest goes on."""
        self.mean, self.steps, self.chance = None, 0, 0.0
        self.spread_before, self.spread_weight_before = self.spread, self.spread_weight

    @property
    def variance(self) -> float:
        """σ_l², over all intervals."""
        return self.spread / self.spread_weight if self.spread_weight else 0.0

    @property
    def variance_of_interval(self) -> float:
        """σ_l² over the interval alone, as gradients shrink and grow; over all where the interval says nothing."""
        weight = self.spread_weight - self.spread_weight_before
        return (self.spread - self.spread_before) / weight if weight > 0 else self.variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerMoments:
    """The estimates of one layer.

    Attributes:
        variance: σ_l², of a batch of one sample.
        second_moment: G_l², of a client's batch.
    """

    variance: float
    second_moment: float


class GradientMoments:
    """Adds up what gradients tell, step by step."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}
        self._entries: dict[str, Tensor] = {}
        self._step: dict[str, list[tuple[Tensor, float, float]]] = {}
        self._earlier: tuple[dict[str, Tensor], dict[str, Tensor], float] | None = None
        self._changed, self._moved, self._chance = 0.0, 0.0, 0.0
        self._smoothness: float | None = None

    def add(self, gradients: _Gradients, inverse_batch: float) -> None:
        """Add one party's gradients of a step.

        Args:
            gradients: By the layer's name; means over its batch.
            inverse_batch: 1/b of a client. Of a weighted mean over clients, Σ w_i²/b_i.
        """
        for name, gradient in gradients.items():
            square = float(gradient.detach().square().sum(dtype=torch.float64))
            if math.isfinite(square):  # what is not is no estimate of anything
                self._step.setdefault(name, []).append((self._taken(name, gradient), inverse_batch, square))

    def end_step(self, client_inverse_batch: float, *, begins_round: bool) -> None:
        """The step's gradients are all there.

        Args:
            client_inverse_batch: The mean of 1/b over the step's clients.
            begins_round: Whether clients had the same weights.
        """
        for name, made in self._step.items():
            layer = self._layers.setdefault(name, _Layer())
            if len(made) == 1:
                self._add_single(layer, *made[0], client_inverse_batch)
            else:
                self._add_several(layer, made, begins_round=begins_round)
        self._step = {}

    def _add_single(
        self, layer: _Layer, gradient: Tensor, inverse: float, square: float, client_inverse: float
    ) -> None:
        if layer.last is not None and layer.last.shape == gradient.shape:
            layer.spread += _square(gradient - layer.last)
            layer.spread_weight += inverse + layer.last_inverse
        layer.last, layer.last_inverse = gradient, inverse
        layer.squares += square + layer.variance * max(client_inverse - inverse, 0.0)
        layer.gradients += 1
        _add_mean(layer, gradient, inverse)

    def _add_several(self, layer: _Layer, made: Sequence[tuple[Tensor, float, float]], *, begins_round: bool) -> None:
        count = len(made)
        mean = sum((gradient for gradient, _, _ in made), torch.zeros_like(made[0][0])) / count
        if begins_round:
            # E Σ|g_i - mean|² = (1 - 1/n) σ² Σ 1/b_i for independent g_i of one mean
            layer.spread += sum(_square(gradient - mean) for gradient, _, _ in made)
            layer.spread_weight += (1 - 1 / count) * sum(inverse for _, inverse, _ in made)
        layer.squares += sum(square for _, _, square in made)
        layer.gradients += count
        layer.last = None
        _add_mean(layer, mean, sum(inverse for _, inverse, _ in made) / count**2)

    def end_interval(self, weights: Mapping[str, Tensor], share_seen: float = 0.0) -> None:
        """An interval between two decisions is over.

        Args:
            weights: The model's, by the layer's name.
            share_seen: Which share of the data that there are was trained on in the interval. Batches of one pass have
                no sample in common, so that nothing is left to chance when all of it is over.
        """
        means = {name: layer.mean / layer.steps for name, layer in self._layers.items() if layer.mean is not None}
        now = {name: self._taken(name, weights[name]) for name in means if name in weights}
        chance = max(1.0 - share_seen, 0.0) * math.fsum(
            layer.variance_of_interval * layer.chance / layer.steps**2 for layer in self._layers.values() if layer.steps
        )
        if self._earlier is not None:
            earlier, there, earlier_chance = self._earlier
            both = [name for name in now if name in there and name in earlier]
            moved = math.fsum(_square(now[name] - there[name]) for name in both)
            changed = math.fsum(_square(means[name] - earlier[name]) for name in both) - chance - earlier_chance
            self._changed, self._moved = self._changed + changed, self._moved + moved
            self._chance += chance + earlier_chance
            if self._moved > 0 and self._changed > _TOLD * self._chance:
                self._smoothness = math.sqrt(self._changed / self._moved)
        self._earlier = means, now, chance
        for layer in self._layers.values():
            layer.forget_interval()

    @property
    def smoothness(self) -> float | None:
        """β; None while nothing has told it from chance."""
        return self._smoothness

    def layers(self) -> dict[str, LayerMoments]:
        """The estimates of every layer that has been seen often enough to tell its variance."""
        return {name: self._moments(layer) for name, layer in self._layers.items() if layer.spread_weight > 0}

    @staticmethod
    def _moments(layer: _Layer) -> LayerMoments:
        return LayerMoments(variance=layer.variance, second_moment=layer.squares / layer.gradients)

    def _taken(self, name: str, tensor: Tensor) -> Tensor:
        """The entries that stand for a tensor, scaled so that their squares add up to its own, on average."""
        flat = tensor.detach().reshape(-1)
        if flat.numel() <= _ENTRIES:
            return flat.to("cpu", torch.float64, copy=True)
        if name not in self._entries:
            drawn = generator(0, "entries of a layer", zlib.crc32(name.encode()))
            self._entries[name] = torch.from_numpy(drawn.integers(0, flat.numel(), _ENTRIES))
        entries = self._entries[name].to(flat.device)
        return flat[entries].to("cpu", torch.float64) * math.sqrt(flat.numel() / _ENTRIES)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain Python; no step may be half added."""
        return {
            "layers": {name: dataclasses.asdict(layer) for name, layer in self._layers.items()},
            "earlier": self._earlier,
            "curvature": (self._changed, self._moved, self._chance, self._smoothness),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._layers = {name: _Layer(**values) for name, values in state["layers"].items()}
        self._earlier = state["earlier"]
        self._changed, self._moved, self._chance, self._smoothness = state["curvature"]


def _add_mean(layer: _Layer, gradient: Tensor, inverse: float) -> None:
    layer.mean = gradient if layer.mean is None else layer.mean + gradient
    layer.steps += 1
    layer.chance += inverse


def _square(tensor: Tensor) -> float:
    return float(tensor.square().sum())
