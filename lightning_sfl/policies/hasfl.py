"""HASFL: batch sizes and cuts that reach a target of the convergence bound soonest."""

import dataclasses

import numpy as np

from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import ReachesTarget, decision, nearest, posed
from lightning_sfl.policies.solvers.descent import descend
from lightning_sfl.policies.solvers.time_to_target import Choice, TimeToTarget
from lightning_sfl.policies.solvers.uniform import best_uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class HASFL(ReachesTarget):
    """Heterogeneity-aware split federated learning (Lin et al., arXiv 2506.08426; a reconstruction).

    Minimises R(b, cuts) · (T_S + T_A / I), the steps until the mean squared gradient norm is ε by the bound of
    :mod:`lightning_sfl.policies.bound` times what a step takes, over every client's batch size and cut, within its
    memory, its samples and ``most_batch``. The paper alternates between the two, batch sizes by Newton-Jacobi and cuts
    by Dinkelbach's method. Here both are first searched for at once, by thresholds on what the slowest client may take
    (:mod:`lightning_sfl.policies.solvers.thresholds`), from the best choice that is the same for all: so the decision
    is never expected to be slower than that one, nor than what there is.

    Args:
        target: ε. None: the drift that cannot be avoided, and 5 times the variance of the batches that there were at
            first, a choice of ours (:func:`lightning_sfl.policies.reach.default_target`).
        most_batch: The largest batch.
    """

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            ValueError: The algorithm is another than ``splitfed_shared`` and ``splitfed_v1``.
            InfeasibleError: The target is out of reach; or a client's memory or channel does not do for one sample.
        """
        found = posed(seen, self.target, self.most_batch)
        start = _start(seen, found.problem)
        ended = descend(found.problem, start)
        now = found.problem.seconds(seen.cut, np.minimum(seen.batch_size, seen.samples))
        instead = f"instead of {now:.4g} s" if np.isfinite(now) else "where it was out of reach"
        reason = f"the target is expected in {ended.choice.seconds:.4g} s {instead}"
        return decision(seen, found, ended.choice, reason=reason, sweeps=ended.sweeps)


def _start(seen: Observation, problem: TimeToTarget) -> Choice:
    """The best uniform choice or the present one; where neither reaches the target, that which comes nearest to it."""
    starts = [nearest(seen, problem)]
    uniform = best_uniform(problem, seen.samples)
    if uniform is not None:
        starts.append(uniform)
    batch = np.minimum(seen.batch_size, seen.samples)
    if problem.accepts(seen.cut, batch):
        starts.append(problem.choice(seen.cut, batch))
    return min(starts, key=lambda choice: choice.seconds)
