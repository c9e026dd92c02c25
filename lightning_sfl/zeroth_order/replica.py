"""A client's own copy of the weights that all clients have alike, kept up by seeds and scalars alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sfl.zeroth_order.directions import Directions, Distribution


class ClientReplica:
    """What a client does with what it is told, in a step that it takes part in or has missed.

    Every pair is a step of its optimizer: gradients are not accumulated.

    Of the very start and the very pairs it makes the very weights that all others have, bit for bit: the same random
    numbers, in the same order, through the same optimizer.

    Args:
        module: The model, of which the client steps its own part.
        parameters: Names of the trainable parameters before the cut; for clients that cut at different places, those up
            to every cut that is not behind its own, from the nearest to its own, without those of the cuts before.
        optimizer: Steps them, by the rule that the others step by; its learning rate is that of the step at hand.
        mu: μ, how far weights were moved.
        distribution: What directions are drawn from.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[Sequence[str]],
        optimizer: Optimizer,
        *,
        mu: float,
        distribution: Distribution,
    ) -> None:
        self._module = module
        self._parameters = parameters
        self._optimizer = optimizer
        self._mu = mu
        self._distribution = distribution

    def follow(self, seeds: Tensor, scalars: Tensor) -> None:
        """Make one step, from its seeds (P,) and scalars (T, P) for the T cuts not behind the client's own.

        Raises:
            ValueError: There are not as many scalars as seeds and cuts, or they are not numbers; nothing is changed.
        """
        if scalars.shape != (len(self._parameters), len(seeds)):
            raise ValueError(
                f"scalars have the shape {tuple(scalars.shape)}; {len(seeds)} seeds and {len(self._parameters)} cuts"
                f" need {(len(self._parameters), len(seeds))}."
            )
        if not bool(scalars.isfinite().all()):
            raise ValueError(f"scalars={scalars.tolist()} are not all numbers.")
        directions = Directions(self._module, seeds, self._distribution)
        for names, row in zip(self._parameters, scalars.tolist(), strict=True):
            for name in names if any(row) else ():  # of zeros alone nothing was learnt
                self._module.get_parameter(name).grad = directions.estimate(name, [v / self._mu for v in row])
        self._optimizer.step()
        self._optimizer.zero_grad()

    def catch_up(self, seeds: Tensor, scalars: Tensor) -> None:
        """Make the steps that were missed, from their seeds (S, P) and scalars (S, T, P), in order.

        Raises:
            ValueError: See :meth:`follow`.
        """
        for step_seeds, step_scalars in zip(torch.unbind(seeds), torch.unbind(scalars), strict=True):
            self.follow(step_seeds, step_scalars)
