"""Fisher information leakage of noisy smashed data: a bound without an attack."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from attacks.images import ImageSpace
from attacks.smashed.distance import wide
from attacks.smashed.victim import Forward


@dataclasses.dataclass(frozen=True, kw_only=True)
class FisherLeakage:
    """dFIL: how well an unbiased attacker can do at best against Gaussian noise on the smashed data.

    Maeng et al. 2023, "Bounding the Invertibility of Privacy-preserving Instance Encoding using Fisher Information"
    (arXiv 2305.04146): for z = f(x) + N(0, σ²) of d pixels, dFIL = tr(JᵀJ) / (σ²·d) with J = ∂f/∂x, and the mean
    squared error per pixel of any unbiased estimate of x is at least 1/dFIL. Attackers with a prior are biased, so this
    explains a leak and promises nothing.

    tr(JᵀJ) = tr(J·Jᵀ) = E‖Jᵀv‖² over random signs v (Hutchinson 1990): one backward pass per probe and no attack. For a
    linear map z = A·x every probe gives vᵀA·Aᵀv, whose mean is ‖A‖² (Frobenius), and where the rows of A are orthogonal
    v drops out: v_i·v_j appears for i ≠ j only with the inner product of two rows. One probe is then exact.

    Args:
        probes: Random directions per record.
        seed: Seeds them.
    """

    probes: int = 8
    seed: int = 0

    name: ClassVar[str] = "Fisher information leakage (dFIL)"

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes={self.probes} is not accepted: give an integer of at least 1.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return f"{self.probes} probes, one backward pass each"

    def measure(self, unit_BCHW: Tensor, forward: Forward, space: ImageSpace, noise_std: float) -> Tensor:
        """The dFIL of every record, per squared unit of a pixel; 1/dFIL bounds the error of unit images.

        Args:
            unit_BCHW: Where to measure: the bound is local.
            forward: The client's half, without its noise.
            space: Where the images lie.
            noise_std: σ, the standard deviation of the noise on every number that crosses.

        Returns:
            Shape (B,), in at least 32 bits. Where batch statistics tie records together, a record's share of what all
            records' smashed data tell of it.

        Raises:
            ValueError: ``noise_std`` is not above 0; without noise the bound is nothing.
        """
        if not noise_std > 0:
            raise ValueError(f"noise_std={noise_std} is not accepted: give a number above 0.")
        draw = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            at_BCHW = wide(unit_BCHW.detach()).clone().requires_grad_()
            smashed = [wide(sent) for sent in forward(space.to_input(at_BCHW))]
        total_B = at_BCHW.new_zeros(len(at_BCHW))
        for probe in range(self.probes):
            signs = [
                (torch.randint(2, sent.shape, generator=draw) * 2 - 1).to(sent.device, sent.dtype) for sent in smashed
            ]
            (back_BCHW,) = torch.autograd.grad(smashed, at_BCHW, signs, retain_graph=probe + 1 < self.probes)
            total_B += back_BCHW.square().flatten(1).sum(1)
        return total_B / self.probes / (noise_std**2 * at_BCHW[0].numel())
