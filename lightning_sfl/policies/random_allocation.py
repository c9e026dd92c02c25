"""Random batch sizes, random cuts, or both (RBS, RMS)."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import Decision, InfeasibleError
from lightning_sfl.policies.draws import check_seed, drawn_batches, drawn_cuts
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import DEFAULT_MOST_BATCH, check_most_batch
from lightning_sfl.policies.stages import largest_batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomAllocation:
    """Batch sizes and cuts drawn anew at every decision, of those that a client has the memory and the samples for.

    RBS+RMS, a baseline of HASFL (arXiv 2506.08426, as recalled), which does not look at what anything takes. What is
    not drawn stays as it is.

    Args:
        batch: Whether batch sizes are drawn.
        split: Whether cuts are drawn.
        seed: The seed.
        most_batch: The largest batch that is drawn.
    """

    batch: bool = True
    split: bool = True
    seed: int = 0
    most_batch: int = DEFAULT_MOST_BATCH

    def __post_init__(self) -> None:
        if not (self.batch or self.split):
            raise ValueError(
                "RandomAllocation(batch=False, split=False) is not accepted: one of them at least is drawn."
            )
        check_seed("RandomAllocation", self.seed)
        check_most_batch("RandomAllocation", self.most_batch)

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            InfeasibleError: What is not drawn leaves a client nothing that fits its memory.
        """
        size = np.minimum(seen.batch_size, seen.samples)
        most = largest_batches(seen, self.most_batch if self.batch else int(size.max()))
        cut = seen.cut
        if self.split:
            allowed = most >= (1 if self.batch else size[:, None])
            if not allowed.any(axis=1).all():
                raise _refused(seen, size, int(allowed.any(axis=1).argmin()), "any cut")
            cut = drawn_cuts(seen, allowed, self.seed)
        if self.batch:
            held = most[np.arange(len(cut)), cut]
            if not held.all():
                client = int(held.argmin())
                where = repr(seen.world.profile.cuts[int(cut[client])])
                raise _refused(seen, np.ones_like(size), client, where)
            size = drawn_batches(seen, held, self.seed)
        drawn = " and ".join(what for what, is_drawn in (("batch sizes", self.batch), ("cuts", self.split)) if is_drawn)
        return Decision(
            allocation=seen.allocation(
                cut=cut if self.split else None,
                batch_size=size if self.batch else None,
            ),
            reason=f"{drawn} drawn at random for round {seen.round}",
        )


def _refused(
    seen: Observation, size: np.ndarray[tuple[int], np.dtype[np.int64]], client: int, where: str
) -> InfeasibleError:
    return InfeasibleError(
        f"memory_byte={seen.world.fleet.memory_byte[seen.clients[client]]:.0f} of client {seen.clients[client]} is too"
        f" little for batch_size={size[client]} at {where}."
    )
