"""How clients step, and the gradient that an attacker reads out of a step."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


class Rule(StrEnum):
    """The optimizers whose steps can be read."""

    SGD = "SGD"
    ADAM = "Adam"
    ADAMW = "AdamW"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptimizer:
    """The optimizer of every client.

    Attributes:
        rule: Which one.
        learning_rate: Its learning rate.
        momentum: Of SGD, μ; of Adam and AdamW, β1.
        dampening: Of SGD's momentum.
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: λ; added to the gradient but for AdamW.
        steps: Steps of a client in a round.
        keeps_state: Whether clients keep their state for themselves from round to round, so that it never crosses.
    """

    rule: Rule
    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    steps: int = 1
    keeps_state: bool = False

    @classmethod
    def of(cls, optimizer: Optimizer, *, steps: int = 1, keeps_state: bool = False) -> "LocalOptimizer | None":
        """What a torch optimizer does; None where its steps cannot be read (another class, groups that differ)."""
        rules: dict[type[Optimizer], Rule] = {SGD: Rule.SGD, Adam: Rule.ADAM, AdamW: Rule.ADAMW}
        rule = rules.get(type(optimizer))
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        if rule is None or any(group != groups[0] for group in groups) or groups[0]["maximize"]:
            return None
        group = groups[0]
        if rule is Rule.SGD:
            return cls(
                rule=rule,
                learning_rate=float(group["lr"]),
                momentum=float(group["momentum"]),
                dampening=float(group["dampening"]),
                nesterov=bool(group["nesterov"]),
                weight_decay=float(group["weight_decay"]),
                steps=steps,
                keeps_state=keeps_state,
            )
        return cls(
            # Adam is AdamW where it is told to decay the weights themselves.
            rule=Rule.ADAMW if group["decoupled_weight_decay"] else rule,
            learning_rate=float(group["lr"]),
            momentum=float(group["betas"][0]),
            weight_decay=float(group["weight_decay"]),
            steps=steps,
            keeps_state=keeps_state,
        )

    def gradient(
        self,
        before: Tensor,
        after: Tensor,
        state_before: Mapping[str, Tensor] | None,
        state_after: Mapping[str, Tensor] | None,
    ) -> Tensor | None:
        """The gradient of one step of one parameter, in float64.

        Where the optimizer keeps a momentum m and sends it, g follows from the two m's: SGD m' = μm + (1 - d)g (m' = g
        in its first step), Adam m' = β1·m + (1 - β1)g. Else from the step itself, g = (θ - θ')/η, of which weight decay
        is taken off.

        Args:
            before: The parameter before the step.
            after: After it.
            state_before: The state that crossed before the step, by key; None if none did.
            state_after: The state that crossed after it.

        Returns:
            The gradient; None where neither says it, or a round has several steps.
        """
        if self.steps != 1:
            return None
        theta = before.double()
        if self.rule is Rule.SGD:
            if self.momentum == 0:
                return self._from_step(theta, after, 1.0)
            new, old = _of(state_after, "momentum_buffer"), _of(state_before, "momentum_buffer")
            if new is None:
                if state_before or self.keeps_state:
                    return None
                # The first step of a fresh state: m' = g, and Nesterov's step is g + μm'.
                return self._from_step(theta, after, 1 + self.momentum if self.nesterov else 1.0)
            if old is not None and self.dampening == 1:
                return None
            moved = new if old is None else (new - self.momentum * old) / (1 - self.dampening)
            return moved - self.weight_decay * theta
        new, old = _of(state_after, "exp_avg"), _of(state_before, "exp_avg")
        if new is None:
            return None
        moved = (new - self.momentum * (torch.zeros_like(new) if old is None else old)) / (1 - self.momentum)
        return moved - self.weight_decay * theta if self.rule is Rule.ADAM else moved

    def _from_step(self, theta: Tensor, after: Tensor, factor: float) -> Tensor | None:
        """The gradient g of a step of η·factor·(g + λθ); None where η is 0, as at the beginning of a warm-up."""
        if self.learning_rate == 0:
            return None
        return (theta - after.double()) / (self.learning_rate * factor) - self.weight_decay * theta


def _of(state: Mapping[str, Tensor] | None, key: str) -> Tensor | None:
    return None if state is None or key not in state else state[key].double()
