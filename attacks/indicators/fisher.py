"""How sharply smashed data tell an image from its neighbours (dFIL)."""

import torch
from torch import Tensor

from attacks.attacker import UnavailableError
from attacks.indicators.evidence import Evidence
from attacks.observation import Observation
from attacks.smashed.dfil import FisherLeakage
from attacks.smashed.distance import wide
from attacks.smashed.messages import forward_of

_NOISE = 0.1
"""Standard deviation of the noise that is supposed, in those of the smashed data over records."""

FISHER_NAME = f"dFIL, if noise of {_NOISE:g} of their deviation over records were on the smashed data"


def fisher_leakage(evidence: Evidence) -> dict[str, float]:
    """The dFIL of the client's half at the records that were attacked, their mean (Maeng et al. 2023).

    A half without noise has no bound: an attacker with its exact output is bounded by rounding alone. So that cuts can
    be compared, noise is supposed, as large in proportion at each; 10·log10 of what is returned is then a peak
    signal-to-noise ratio that no unbiased attacker passes on average.

    Raises:
        UnavailableError: Nobody knows the clients' weights.
    """
    halves = [(evidence.unit_images(seen), forward_of(evidence.attacker, seen)) for seen in _weighted(evidence)]
    space = evidence.attacker.space
    with torch.no_grad():
        sent = [
            torch.cat([wide(part).flatten(1) for part in forward(space.to_input(images))], dim=1)
            for images, forward in halves
        ]
    # Of each number over the records: what all records have in common tells none from another.
    deviation = float(torch.cat(sent).var(0, correction=0).mean().sqrt())
    if not deviation > 0:  # a dead half tells nothing, and a diverged one nothing that is a number
        return {}
    measure = FisherLeakage()
    found: list[Tensor] = [measure.measure(images, half, space, _NOISE * deviation) for images, half in halves]
    value = torch.cat(found).mean()
    return {FISHER_NAME: float(value)} if value.isfinite() else {}


def _weighted(evidence: Evidence) -> list[Observation]:
    seen = evidence.observations()
    if not all(observation.weights for observation in seen):
        raise UnavailableError("it needs client_weights, which this audit was not given.")
    return seen
