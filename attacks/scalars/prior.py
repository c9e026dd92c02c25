"""What images look like: a Gaussian with the mean and the covariance of auxiliary ones, shrunk."""

import dataclasses

import torch
from torch import Tensor

from attacks.images import ImageSpace

_UNIFORM_VARIANCE = 1 / 12
"""Of a pixel that may be anything in its box."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """A Gaussian over unit images. Its covariance is FᵀF + r·1, for N pixels and M auxiliary images.

    Attributes:
        mean_CHW: Its mean, in float64.
        factor_MN: F, the auxiliary images without their mean, scaled.
        ridge: r.
    """

    mean_CHW: Tensor
    factor_MN: Tensor
    ridge: float

    @classmethod
    def of(cls, auxiliary_BCHW: Tensor | None, space: ImageSpace) -> "Prior":
        """That of auxiliary unit images; grey with independent pixels where there are fewer than 2.

        Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices": (1 − ρ)S + ρm·1
        with m the mean variance and the ρ of least expected squared error.
        """
        if auxiliary_BCHW is None or len(auxiliary_BCHW) < 2:
            grey = space.grey(1, torch.float64)[0]
            return cls(grey, grey.new_zeros(0, grey.numel()), _UNIFORM_VARIANCE)
        images_MN = auxiliary_BCHW.double().flatten(1)
        count, pixels = images_MN.shape
        mean_N = images_MN.mean(0)
        centred_MN = images_MN - mean_N
        gram_MM = centred_MN @ centred_MN.T
        variance = float(gram_MM.trace()) / count / pixels
        squared = float(gram_MM.square().sum()) / count**2  # ‖S‖², of the Gram matrix alone
        apart = squared - pixels * variance**2  # ‖S − m·1‖²
        # The mean over images of ‖xxᵀ − S‖² is that of ‖x‖⁴, less ‖S‖².
        spread = (float(gram_MM.diagonal().square().mean()) - squared) / count
        shrinkage = min(1.0, spread / apart) if apart > 0 else 1.0
        factor_MN = centred_MN * ((1 - shrinkage) / count) ** 0.5
        return cls(mean_N.reshape(space.shape_CHW), factor_MN, max(shrinkage * variance, 1e-8))

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
        values, vectors_PP = torch.linalg.eigh(kernel_PP)
        # What rounding leaves of eigenvalues that are zero must not pass for information.
        least = max(noise**2, torch.finfo(values.dtype).eps * float(values[-1]))
        weights_P = vectors_PP @ ((vectors_PP.T @ wanted_P) / (values.clamp_min(0) + least))
        best_BN = mean_BN + torch.einsum("pbn,p->bn", spread_PBN, weights_P)
        return best_BN.reshape(point_BCHW.shape)

    def _times_covariance(self, slopes_PBN: Tensor) -> Tensor:
        return (slopes_PBN @ self.factor_MN.T) @ self.factor_MN + self.ridge * slopes_PBN
