"""The policy that changes nothing, or only once: what every other is compared with."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.observation import Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same cut and batch size for everybody, all the time.

    Args:
        cut: Name of the cut; None: everybody keeps what there is.
        batch_size: Samples per step, as far as a client has as many; None: everybody keeps what there is.
    """

    cut: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"Fixed(batch_size={self.batch_size}) is not accepted: give an integer of at least 1.")

    def decide(self, seen: Observation) -> Decision:
        """Decide for the rounds to come.

        Raises:
            ValueError: The profile has no such cut.
        """
        cut = None if self.cut is None else np.repeat(seen.world.profile.index([self.cut]), len(seen.clients))
        batch = None if self.batch_size is None else np.minimum(seen.samples, self.batch_size)
        return Decision(allocation=seen.allocation(cut=cut, batch_size=batch), reason="fixed")
