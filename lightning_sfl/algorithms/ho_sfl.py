"""HO-SFL: clients without backpropagation, a server with it."""

import dataclasses
from typing import ClassVar

from lightning_sfl.algorithms.forward_only import ForwardOnly, Surrogate


@dataclasses.dataclass(frozen=True, kw_only=True)
class HOSFL(ForwardOnly):
    """Hybrid-order split federated learning (arXiv 2603.14773).

    The server backpropagates through its part and returns λ, the gradient at the cut. A client moves its weights along
    P random directions and uploads vₚ = ⟨λ, f_c(x; θ + μuₚ) − f_c(x; θ)⟩; the server returns the clients' weighted mean
    v̄, and every client makes the same step on ĝ = (1/Pμ) Σ v̄ₚuₚ. Nothing else is aggregated. For a linear f_c the
    estimate is unbiased and E‖ĝ − g‖² = (d_c + 1)/P ‖g‖² with Gaussian directions and d_c trainable client parameters;
    else its bias is at most μ L √d_c, where the surrogate's gradient is L-Lipschitz (HO-FL, lemma C.5).

    The paper weights clients equally, has P = 5 for images and 2 for text, μ = 1e-3, and starts from pretrained
    weights: from a random start the estimate's noise drowns what there is to learn.
    """

    name: ClassVar[str] = "ho_sfl"
    surrogate: ClassVar[Surrogate] = Surrogate.CUT_GRADIENT
