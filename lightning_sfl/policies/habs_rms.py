"""Random cuts, with the batch sizes that are best for them."""

import dataclasses

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.draws import attempts, check_seed, drawn_cuts
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import ReachesTarget, decision, default_target, nearest, posed
from lightning_sfl.policies.solvers.descent import batches, descend


@dataclasses.dataclass(frozen=True, kw_only=True)
class HabsRms(ReachesTarget):
    """HABS+RMS, a baseline of HASFL (arXiv 2506.08426, as recalled): cuts drawn, batches optimised.

    Cuts are drawn anew at every decision, of those at which a client has the memory for a sample; draws that cannot
    reach the target are drawn again.

    Args:
        target: ε; see :class:`lightning_sfl.policies.hasfl.HASFL`. None: the default one with the cuts that were drawn.
        most_batch: The largest batch.
        seed: The seed.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed("HabsRms", self.seed)

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            ValueError: The algorithm is another than ``splitfed_shared`` and ``splitfed_v1``.
            InfeasibleError: The target is out of reach, or no draw reaches it.
        """
        found = posed(seen, self.target, self.most_batch)
        problem = found.problem
        nearest(seen, problem)
        for attempt in attempts("cuts", problem.target):
            cut = drawn_cuts(seen, problem.allowed, self.seed, attempt)
            if self.target is None:  # deep cuts cannot reach what shallow ones can
                drawn_target = default_target(problem.with_cuts(cut), found.memory["mean_inverse_batch"])
                problem = dataclasses.replace(problem, target=drawn_target)
                found = dataclasses.replace(found, problem=problem)
            largest = problem.most[range(len(cut)), cut]
            start = problem.choice(cut, largest)
            if problem.slack(cut, largest) > 0:
                break
        ended = descend(problem, start, first=None, blocks=(batches,))
        reason = f"cuts drawn at random, the target is expected in {ended.choice.seconds:.4g} s"
        return decision(seen, found, ended.choice, reason=reason, sweeps=ended.sweeps)
