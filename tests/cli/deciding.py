"""A policy that recipes of the tests name."""

import dataclasses

import numpy as np

from lightning_sfl.policies import Decision, Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToTheEnd:
    """Everybody cuts at the deepest cut that there is to choose."""

    def decide(self, seen: Observation) -> Decision:
        deepest = np.full(len(seen.clients), len(seen.world.profile.cuts) - 1)
        return Decision(allocation=seen.allocation(cut=deepest), reason=f"from round {seen.round} on")
