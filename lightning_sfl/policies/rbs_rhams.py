"""Random batch sizes, with the cuts that make a step shortest."""

import dataclasses

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.draws import check_seed, drawn_batches
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import DEFAULT_MOST_BATCH, check_most_batch, time_to_target, whole_step_s
from lightning_sfl.policies.solvers.descent import descend, nearby


@dataclasses.dataclass(frozen=True, kw_only=True)
class RbsRhams:
    """RBS+RHAMS, a baseline of HASFL (arXiv 2506.08426, as recalled): batches drawn, cuts by resources alone.

    The cuts are those with the shortest step, its part of a round's ends included; what a deep one does to convergence
    is not looked at. Batches are drawn anew at every decision, of those that a client has the memory and the samples
    for at some cut.

    Args:
        most_batch: The largest batch.
        seed: The seed.
    """

    most_batch: int = DEFAULT_MOST_BATCH
    seed: int = 0

    def __post_init__(self) -> None:
        check_most_batch("RbsRhams", self.most_batch)
        check_seed("RbsRhams", self.seed)

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            ValueError: The algorithm is another than ``splitfed_shared`` and ``splitfed_v1``.
            InfeasibleError: A client's memory or channel does not do for one sample.
        """
        problem = time_to_target(seen, 1.0, self.most_batch).by_time_alone()
        size = drawn_batches(seen, problem.most.max(axis=1), self.seed)
        cuts_alone = problem.with_batches(size)
        ended = descend(cuts_alone, cuts_alone.nearest(), blocks=(nearby,))
        step_s = whole_step_s(seen, ended.choice)
        return Decision(
            allocation=seen.allocation(cut=ended.choice.cut, batch_size=size),
            reason=f"batch sizes drawn at random, and for these the cuts with the shortest step, {step_s:.4g} s",
            figures={"step_s": step_s, "sweeps": float(ended.sweeps)},
        )
