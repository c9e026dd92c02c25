"""Several local steps seen as one gradient: what a client sends that trains between two aggregations."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from attacks.gradients.step_sums import StepSum, direction, momentum_after, moved, next_momentum
from attacks.gradients.victim import Gradients, widened
from attacks.local_optimizer import LocalOptimizer, Rule

StepLoss = Callable[[Mapping[str, Tensor], Tensor, Tensor, int], Tensor]
"""(trainable weights by name, model input, labels, which step) → what that step of the client makes small."""

State = Mapping[str, Mapping[str, Tensor]]
"""Of an optimizer: by parameter, by key."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalRound:
    """A client's steps of one round as an attacker runs them again, and what crossed of them.

    Geiping et al. 2020 (section 6) and Dimitrov et al. 2022 ("Data Leakage in Federated Averaging", section 4) match
    what simulated steps add up to: the steps are unrolled, so that the update can be differentiated by the images.
    Ours: momentum, and what of it crosses. SGD moves the weights by one sum of the steps' gradients and ends with
    another as its momentum; both are matched, each as a mean gradient. Adam is not unrolled: its gradients are taken on
    the straight line from the weights before to those after, near which they were made, and their sum is its first
    moment.

    Args:
        loss: What each step makes small.
        before: The trainable weights that the client began from, by name.
        after: Those that it sent.
        rule: How it stepped.
        sizes: How many records each step held.
        state_before: The optimizer's state that was sent down; empty where it began afresh.
        state_after: What was sent up; empty where none was.
    """

    loss: StepLoss
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    rule: LocalOptimizer
    sizes: tuple[int, ...]
    state_before: State = dataclasses.field(default_factory=dict)
    state_after: State = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes={self.sizes} is not accepted: give at least 1 record for each of the steps.")
        if not self.rule.learning_rate > 0:
            raise ValueError(f"learning_rate={self.rule.learning_rate} is not accepted: give a number above 0.")

    @cached_property
    def seen(self) -> dict[str, Tensor]:
        """What crossed, as mean gradients in float64: by parameter, then SGD's momentum by parameter and key."""
        found: dict[str, Tensor] = {}
        for place, (name, own) in self._sums.items():
            theta = self.before[name].double()
            if place == name and self.rule.rule is Rule.SGD:
                total = (theta - self.after[name].double()) / self.rule.learning_rate
            else:
                total = self.state_after[name][self._key]
            found[place] = own.mean_seen(total, self._start(name)) - self._decay * theta
        return found

    def gradients(self, images: Tensor, labels: Tensor) -> Gradients:
        """What these images would give in the place of :attr:`seen`, differentiable where gradients are enabled.

        Args:
            images: Model input of all steps, (records, C, H, W), those of the first step first.
            labels: Theirs.
        """
        if len(images) != sum(self.sizes) or len(labels) != len(images):
            raise ValueError(
                f"{len(images)} images with {len(labels)} labels are not accepted: the steps hold {self.sizes}."
            )
        slopes = self._slopes(images.split(self.sizes), labels.split(self.sizes))
        return tuple(own.mean_of(slopes[name]) for name, own in self._sums.values())

    def mean_gradient(self, images: Tensor, labels: Tensor) -> Gradients:
        """The mean gradient of one batch on the straight line from the weights before to those after, as ``seen``.

        Dimitrov et al. 2022 (section 4.3) interpolate what the model answers at both ends in the same way, to read how
        often every class is in a round.
        """
        with torch.no_grad():
            found = [self._at(self._between(step), images, labels, step, False) for step in range(len(self.sizes))]
            steps = {name: [slopes[name] for slopes in found] for name in self.before}
            return tuple(own.mean_of(steps[name]) for name, own in self._sums.values())

    def _slopes(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Every step's gradient of every parameter.

        With the decay of weights, of which that of the first weights is taken off, as it is from what crossed.
        """
        keeps = torch.is_grad_enabled()
        found: dict[str, list[Tensor]] = {name: [] for name in self.before}
        weights = self._between(0)
        momentum = {name: None if (v := self._start(name)) is None else widened(v) for name in self.before}
        for step, (own_images, own_labels) in enumerate(zip(images, labels, strict=True)):
            slopes = self._at(weights, own_images, own_labels, step, keeps)
            moving: dict[str, Tensor] = {}
            for name, slope in slopes.items():
                found[name].append(slope)
                if self.rule.rule is Rule.SGD:
                    whole = slope + self._decay * widened(self.before[name])
                    momentum[name] = now = next_momentum(self.rule, momentum[name], whole)
                    moving[name] = weights[name] - self.rule.learning_rate * direction(self.rule, now, whole)
            weights = moving or self._between(step + 1)
        return found

    def _at(
        self, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, step: int, keeps: bool
    ) -> dict[str, Tensor]:
        with torch.enable_grad():
            # Without a graph to keep, every step starts from leaves.
            used = {n: w if keeps and w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
            slopes = torch.autograd.grad(
                self.loss(used, images, labels, step),
                tuple(used.values()),
                create_graph=keeps,
                materialize_grads=True,
            )
            found = {
                n: g + self._decay * (used[n] - widened(self.before[n])) for n, g in zip(used, slopes, strict=True)
            }
        return found if keeps else {name: slope.detach() for name, slope in found.items()}

    def _between(self, step: int) -> dict[str, Tensor]:
        share = step / len(self.sizes)
        return {n: torch.lerp(widened(w.detach()), widened(self.after[n]), share) for n, w in self.before.items()}

    @cached_property
    def _sums(self) -> dict[str, tuple[str, StepSum]]:
        """The parameter and the sum of its gradients that each place of ``seen`` shows."""
        steps = len(self.sizes)
        of_steps: dict[str, tuple[str, StepSum]] = {}
        of_momentum: dict[str, tuple[str, StepSum]] = {}
        for name in self.before:
            fresh = self._start(name) is None
            step, rest = moved(self.rule, steps, fresh=fresh), momentum_after(self.rule, steps, fresh=fresh)
            if self.rule.rule is Rule.SGD and step.says_something:
                of_steps[name] = name, step
            if self._key in self.state_after.get(name, {}) and rest.says_something:
                of_momentum[f"{name}/{self._key}" if self.rule.rule is Rule.SGD else name] = name, rest
        return {**of_steps, **of_momentum}

    @property
    def _key(self) -> str:
        return "momentum_buffer" if self.rule.rule is Rule.SGD else "exp_avg"

    @property
    def _decay(self) -> float:
        """λ, where it is added to the gradient."""
        return 0.0 if self.rule.rule is Rule.ADAMW else self.rule.weight_decay

    def _start(self, name: str) -> Tensor | None:
        return self.state_before.get(name, {}).get(self._key)
