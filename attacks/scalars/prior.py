"""What images look like: a Gaussian with the mean and the covariance of auxiliary ones, shrunk."""

import dataclasses

import torch
from torch import Tensor

from attacks.images import ImageSpace

_UNIFORM_VARIANCE = 1 / 12
"""Of a pixel that may be anything in its box."""
_WHITE = 1e-3
"""Share of the variance that is left to every pixel by itself, so that no image is impossible."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """A Gaussian over unit images. Its covariance is FᵀF + v·K_C ⊗ K_H ⊗ K_W + r·1, of N = C·H·W pixels.

    Attributes:
        mean_CHW: Its mean, in float64.
        factor_MN: F, auxiliary images without their mean, scaled.
        sides: K_C, K_H and K_W: covariances of channels, rows and columns, each of mean variance 1.
        variance: v.
        ridge: r.
    """

    mean_CHW: Tensor
    factor_MN: Tensor
    sides: tuple[Tensor, Tensor, Tensor]
    variance: float
    ridge: float

    @classmethod
    def of(cls, auxiliary_BCHW: Tensor | None, space: ImageSpace) -> "Prior":
        """That of auxiliary unit images; grey with independent pixels where there are fewer than 2, or they are equal.

        Ledoit and Wolf 2004 ("A well-conditioned estimator for large-dimensional covariance matrices") take
        (1 − ρ)S + ρT for the sample covariance S, with the ρ of least expected squared error. Their T is a multiple of
        1; here it is the separable covariance, which has few numbers and still knows that images are smooth.
        """
        if auxiliary_BCHW is None or len(auxiliary_BCHW) < 2 or not bool((auxiliary_BCHW != auxiliary_BCHW[0]).any()):
            grey = space.grey(1, torch.float64)[0]
            eyes = [torch.eye(side, dtype=torch.float64) for side in space.shape_CHW]
            no_images = grey.new_zeros(0, grey.numel())
            return cls(grey, no_images, (eyes[0], eyes[1], eyes[2]), 0.0, _UNIFORM_VARIANCE)
        images_MCHW = auxiliary_BCHW.double()
        count = len(images_MCHW)
        mean_CHW = images_MCHW.mean(0)
        apart_MCHW = images_MCHW - mean_CHW
        variance = float(apart_MCHW.square().mean())
        apart_MN = apart_MCHW.flatten(1)
        sides = (_along(apart_MCHW, 1), _along(apart_MCHW, 2), _along(apart_MCHW, 3))
        separable = cls(mean_CHW, apart_MN[:0], sides, (1 - _WHITE) * variance, _WHITE * variance)
        gram_MM = apart_MN @ apart_MN.T
        squared = float(gram_MM.square().sum()) / count**2  # ‖S‖², of the Gram matrix alone
        spread = (float(gram_MM.diagonal().square().mean()) - squared) / count  # E‖S − E S‖²
        shared = float((separable._times_covariance(apart_MN) * apart_MN).sum()) / count  # ⟨S, T⟩
        apart = squared - 2 * shared + separable._squared_norm()
        share = min(1.0, spread / apart) if apart > 0 else 1.0
        return dataclasses.replace(
            separable, factor_MN=apart_MN * ((1 - share) / count) ** 0.5, variance=share * separable.variance
        )

    def given(self, slopes_PBN: Tensor, apart_P: Tensor, point_BCHW: Tensor, noise: float) -> Tensor:
        """The batch of highest posterior density, of measurements linear in it.

        Args:
            slopes_PBN: J, how they follow the pixels.
            apart_P: How far they are from those at ``point_BCHW``.
            point_BCHW: Where they were linearised.
            noise: Their standard error.
        """
        mean_BN = self.mean_CHW.flatten().expand(len(point_BCHW), -1)
        moved_BN = point_BCHW.flatten(1) - mean_BN
        spread_PBN = self._times_covariance(slopes_PBN)
        kernel_PP = torch.einsum("pbn,qbn->pq", spread_PBN, slopes_PBN)
        wanted_P = apart_P + torch.einsum("pbn,bn->p", slopes_PBN, moved_BN)
        values_P, vectors_PP = torch.linalg.eigh(kernel_PP)
        # What rounding leaves of eigenvalues that are zero must not pass for information.
        least = max(noise**2, torch.finfo(values_P.dtype).eps * float(values_P[-1]))
        weights_P = vectors_PP @ ((vectors_PP.T @ wanted_P) / (values_P.clamp_min(0) + least))
        best_BN = mean_BN + torch.einsum("pbn,p->bn", spread_PBN, weights_P)
        return best_BN.reshape(point_BCHW.shape)

    def _times_covariance(self, rows: Tensor) -> Tensor:
        """Rows of N pixels (..., N) times the covariance."""
        channels, down, across = self.sides
        images = rows.reshape(*rows.shape[:-1], *self.mean_CHW.shape)
        smooth = torch.einsum("...chw,cd,hi,wj->...dij", images, channels, down, across).reshape(rows.shape)
        return (rows @ self.factor_MN.T) @ self.factor_MN + self.variance * smooth + self.ridge * rows

    def _squared_norm(self) -> float:
        """‖v·K_C ⊗ K_H ⊗ K_W + r·1‖²; each factor's trace is its side."""
        kronecker = 1.0
        for side in self.sides:
            kronecker *= float(side.square().sum())
        pixels = self.mean_CHW.numel()
        return self.variance**2 * kronecker + 2 * self.variance * self.ridge * pixels + self.ridge**2 * pixels


def _along(apart_MCHW: Tensor, axis: int) -> Tensor:
    """The covariance along one axis, over all others, of mean variance 1."""
    rows = apart_MCHW.movedim(axis, -1).flatten(0, -2)
    covariance = rows.T @ rows
    return covariance * (len(covariance) / covariance.trace())
