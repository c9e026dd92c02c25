"""Which of a pool of records a client's scalars stem from."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings, RankedCandidates
from attacks.attacker import Attacker
from attacks.reconstruction import Progress
from attacks.scalars.messages import OF_SCALARS, last_measurements
from attacks.threat import Knowledge, ThreatModel

_FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalarLikelihood:
    """Candidates ranked by how likely they make the scalars that were sent.

    A candidate in the place of record b adds ⟨λ_b, f_c(x; θ + μuₚ) − f_c(x; θ)⟩ to scalar p, which the attacker
    computes exactly. A batch of one is then ranked by −Σₚ (sₚ − aₚ)². In larger batches the other records are unknown:
    they are taken for draws from the pool, with its mean and covariance, and a candidate scores the likelihood of s
    with it in the batch against that without (:func:`likelihood_ratios`). Ours: we know of no published attack on
    these messages.
    """

    name: ClassVar[str] = "candidates by scalars"
    needs: ClassVar[ThreatModel] = dataclasses.replace(
        OF_SCALARS,
        name="white box of seeds and scalars, with candidates",
        knows=OF_SCALARS.knows - {Knowledge.AUXILIARY_RECORDS} | {Knowledge.CANDIDATES},
        description=(
            "Who sees the seeds, the cut gradients and the scalars of single clients, knows the model's program, the"
            " clients' weights and how far they move them along a direction, and holds a pool of records with those"
            " that were used among them. The smashed data are not used."
        ),
    )

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return "one forward pass per candidate and direction"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        measured = last_measurements(attacker)
        pool_NCHW = attacker.space.to_unit(attacker.candidates(measured[0].round).images_BCHW)
        found: list[RankedCandidates] = []
        for place, one in enumerate(measured):
            contributions_NBP = one.probed.contributions(pool_NCHW)
            noise = one.probed.rounding(pool_NCHW[: one.records]) + _FLOAT32_EPS * float(one.scalars_P.norm())
            scores_N = likelihood_ratios(contributions_NBP, one.scalars_P, noise)
            found.append(RankedCandidates(number=one.number, round=one.round, scores_N=scores_N))
            progress((place + 1) / len(measured))
        told = f"{len(measured[0].scalars_P)} scalars, {len(pool_NCHW)} candidates, {len(measured)} batches"
        return Findings(batches=tuple(found), budget=f"{self.budget}; {told}")


def likelihood_ratios(contributions_NBP: Tensor, scalars_P: Tensor, noise: float) -> Tensor:
    """The logarithm of p(s | candidate is in the batch) / p(s | nothing known), (N,) in float64.

    With means m_b and covariances V_b over the pool of what a record in place b adds, and s the sum over places plus
    noise: p(s) = N(Σm_b, ΣV_b + σ²), and with the candidate in place b, N(a_b + Σ_{b'≠b} m_b', Σ_{b'≠b} V_b' + σ²).
    All places are as likely.

    Args:
        contributions_NBP: What each candidate adds in each place.
        scalars_P: What was sent.
        noise: Standard error of a scalar.
    """
    candidates, places, probes = contributions_NBP.shape
    mean_BP = contributions_NBP.mean(0)
    apart_NBP = contributions_NBP - mean_BP
    covariance_BPP = torch.einsum("nbp,nbq->bpq", apart_NBP, apart_NBP) / candidates
    total_PP = covariance_BPP.sum(0) + noise**2 * torch.eye(probes, dtype=scalars_P.dtype, device=scalars_P.device)
    rest_P = scalars_P - mean_BP.sum(0)
    whole = _log_density(rest_P[None], total_PP)
    by_place_BN = torch.stack(
        [_log_density(rest_P - apart_NBP[:, place], total_PP - covariance_BPP[place]) for place in range(places)]
    )
    return by_place_BN.logsumexp(0) - math.log(places) - whole


def _log_density(apart_NP: Tensor, covariance_PP: Tensor) -> Tensor:
    """The logarithm of N(apart; 0, covariance), but for a constant; (N,)."""
    values_P, vectors_PP = torch.linalg.eigh(covariance_PP)
    # What rounding leaves of eigenvalues must not be below what numbers can tell.
    least = torch.finfo(values_P.dtype).eps * values_P[-1].clamp_min(torch.finfo(values_P.dtype).tiny)
    values_P = values_P.clamp_min(float(least))
    density_N: Tensor = -(((apart_NP @ vectors_PP).square() / values_P).sum(1) + values_P.log().sum()) / 2
    return density_N
