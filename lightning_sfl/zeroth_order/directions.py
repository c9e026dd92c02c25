"""Directions in which weights are perturbed: random numbers that every party draws for itself from a seed.

They are drawn parameter by parameter, each from a stream of its own, so that clients which cut at different places have
the same numbers for the layers that they share. They are drawn by the processor whatever device the weights are on, so
that they have the same bits everywhere.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sfl.random import generator, normals

_PURPOSE = "direction"


class Distribution(StrEnum):
    """What the numbers of a direction u are drawn from; E[u uᵀ] = I in any case.

    Of a linear function's gradient g in d dimensions, P directions give an estimate ĝ with E‖ĝ − g‖² = κ‖g‖².
    """

    GAUSSIAN = "gaussian"
    RADEMACHER = "rademacher"

    def kappa(self, dimensions: int, probes: int) -> float:
        """κ: (d + 1) / P for Gaussian directions (HO-FL appendix, lemma C.5), (d − 1) / P for those of ±1.

        E‖(gᵀu)u‖² is (d + 2)‖g‖² for Gaussian numbers, whose fourth moment is 3, and d‖g‖² for ±1, where ‖u‖² = d.
        """
        return (dimensions + (1 if self is Distribution.GAUSSIAN else -1)) / probes


def draw_seeds(seed: int, step: int, probes: int) -> Tensor:
    """The seeds of a step's directions, (P,), as the server draws them."""
    return torch.from_numpy(generator(seed, "probes", step).integers(0, 2**63 - 1, probes))


def direction(parameter: Tensor, place: int, seed: int, distribution: Distribution) -> Tensor:
    """One parameter's part of a direction.

    Args:
        parameter: The parameter, for its shape and device.
        place: Its place among the parameters of the whole model, wherever it is cut.
        seed: The direction's seed.
        distribution: What the numbers are drawn from.

    Returns:
        Random numbers of the parameter's shape in float32.
    """
    count = parameter.numel()
    if distribution is Distribution.GAUSSIAN:
        numbers = normals(count, seed, _PURPOSE, place).astype(np.float32)
    else:
        drawn = np.frombuffer(generator(seed, _PURPOSE, place).bytes(-(-count // 8)), dtype=np.uint8)
        numbers = np.unpackbits(drawn, count=count, bitorder="little").astype(np.float32) * 2 - 1
    return torch.from_numpy(numbers).reshape(parameter.shape).to(parameter.device)


class Directions:
    """The directions of one step, along which weights are moved and gradients estimated.

    Args:
        module: The whole module.
        seeds: The directions' seeds, (P,).
        distribution: What their numbers are drawn from.
        keeps_byte: How much of the directions may be kept, instead of being drawn anew each time.
    """

    def __init__(self, module: nn.Module, seeds: Tensor, distribution: Distribution, *, keeps_byte: int = 0) -> None:
        self._parameters = {name: (place, own) for place, (name, own) in enumerate(module.named_parameters())}
        self._seeds: list[int] = seeds.tolist()
        self._distribution = distribution
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._may_keep_byte = keeps_byte

    def of(self, name: str, probe: int) -> Tensor:
        """A parameter's part of the direction of a probe; not to be written to."""
        if (name, probe) in self._kept:
            return self._kept[name, probe]
        place, parameter = self._parameters[name]
        drawn = direction(parameter, place, self._seeds[probe], self._distribution)
        if drawn.nbytes <= self._may_keep_byte:
            self._kept[name, probe] = drawn
            self._may_keep_byte -= drawn.nbytes
        return drawn

    @contextmanager
    def moved(self, names: Collection[str], probe: int, distance: float) -> Iterator[None]:
        """Have weights moved by ``distance`` times a probe's direction, in the module itself.

        The very weights come back: moving them back by the same distance would leave a rounding error, which those who
        did not probe would not have.
        """
        held = [(parameter, parameter.data) for parameter in (self._parameters[name][1] for name in names)]
        try:
            for name in names:
                parameter = self._parameters[name][1]
                parameter.data = torch.add(parameter.data, self.of(name, probe).to(parameter.dtype), alpha=distance)
            yield
        finally:
            for parameter, data in held:
                parameter.data = data

    def estimate(self, name: str, slopes: Sequence[float]) -> Tensor:
        """A parameter's gradient as far as the function's slopes along the directions tell: (1/P) Σ slopeₚ uₚ.

        HO-SFL (arXiv 2603.14773), step 6 of a round. The numbers are multiplied and added one operation at a time, so
        that they are rounded alike on every device.
        """
        parameter = self._parameters[name][1]
        total = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
        for probe, slope in enumerate(slopes):
            total += self.of(name, probe) * (slope / len(self._seeds))
        return total.to(parameter.dtype)

    def slopes(self, gradients: Mapping[str, Tensor]) -> list[float]:
        """The slopes along the directions of a function with these gradients, restricted to their parameters; (P,)."""
        probes = range(len(self._seeds))
        return [
            sum(float((gradient.float() * self.of(name, probe)).sum()) for name, gradient in gradients.items())
            for probe in probes
        ]
