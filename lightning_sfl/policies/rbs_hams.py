"""Random batch sizes, with the cuts that are best for them."""

import dataclasses

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.draws import attempts, check_seed, drawn_batches
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import ReachesTarget, decision, nearest, posed
from lightning_sfl.policies.solvers.descent import descend, nearby


@dataclasses.dataclass(frozen=True, kw_only=True)
class RbsHams(ReachesTarget):
    """RBS+HAMS, a baseline of HASFL (arXiv 2506.08426, as recalled): batches drawn, cuts optimised.

    Batches are drawn anew at every decision, of those that a client has the memory and the samples for at some cut;
    draws that cannot reach the target are drawn again.

    Args:
        target: ε; see :class:`lightning_sfl.policies.hasfl.HASFL`.
        most_batch: The largest batch.
        seed: The seed.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed("RbsHams", self.seed)

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            ValueError: The algorithm is another than ``splitfed_shared`` and ``splitfed_v1``.
            InfeasibleError: The target is out of reach, or no draw reaches it.
        """
        found = posed(seen, self.target, self.most_batch)
        problem = found.problem
        nearest(seen, problem)
        for attempt in attempts("batch sizes", problem.target):
            size = drawn_batches(seen, problem.most.max(axis=1), self.seed, attempt)
            cuts_alone = problem.with_batches(size)
            start = cuts_alone.nearest()
            if cuts_alone.slack(start.cut, start.batch_size) > 0:
                break
        ended = descend(cuts_alone, start, blocks=(nearby,))
        reason = f"batch sizes drawn at random, the target is expected in {ended.choice.seconds:.4g} s"
        return decision(seen, found, ended.choice, reason=reason, sweeps=ended.sweeps)
