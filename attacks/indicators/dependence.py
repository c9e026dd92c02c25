"""How much smashed data and records depend on each other (distance correlation)."""

import torch

from attacks.distance_correlation import distance_correlation
from attacks.indicators.evidence import Evidence

DEPENDENCE_NAME = "distance correlation of records and smashed data (unbiased)"
_FEWEST = 4


def dependence(evidence: Evidence) -> dict[str, float]:
    """The unbiased squared distance correlation of the attacked records with what crossed of them.

    Nothing of fewer than 4 records, and nothing where what crossed is not finite or not told apart by record.

    Raises:
        UnavailableError: No smashed data crossed.
    """
    seen = evidence.observations()
    images = [evidence.unit_images(observation).flatten(1) for observation in seen]
    if any(len(part) != len(own) for one, own in zip(seen, images, strict=True) for part in one.smashed):
        return {}
    sent = [torch.cat([part.flatten(1).double() for part in one.smashed], dim=1) for one in seen]
    if len({part.shape[1] for part in sent}) != 1:
        return {}
    x, y = torch.cat(images), torch.cat(sent)
    if len(x) < _FEWEST or not y.isfinite().all():
        return {}
    return {DEPENDENCE_NAME: distance_correlation(x, y)}
