"""The front of latency and energy: what rounds cost as the weight goes from one to the other."""

import dataclasses
from collections.abc import Sequence

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.fixed_bits import FixedBits
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.sflam import SFLAM


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One decision.

    Attributes:
        weight: How much latency counted.
        round_s: What a round takes.
        client_joule: What computing and sending take of all clients.
        decision: What was decided.
    """

    weight: float
    round_s: float
    client_joule: float
    decision: Decision


def latency_energy_front(
    policy: SFLAM | FixedBits, seen: Observation, weights: Sequence[float]
) -> tuple[FrontPoint, ...]:
    """What a policy's decisions cost with each of the weights (SFLAM, arXiv 2504.09114; a reconstruction)."""
    decisions = [dataclasses.replace(policy, weight=weight).decide(seen) for weight in weights]
    return tuple(
        FrontPoint(
            weight=weight,
            round_s=decision.figures["round_s"],
            client_joule=decision.figures["client_joule"],
            decision=decision,
        )
        for weight, decision in zip(weights, decisions, strict=True)
    )
