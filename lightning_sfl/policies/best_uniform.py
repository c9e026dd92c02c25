"""The best batch size and the best cut that are the same for everybody."""

import dataclasses

from lightning_sfl.policies.decision import Decision, InfeasibleError
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.reach import ReachesTarget, decision, nearest, posed
from lightning_sfl.policies.solvers.time_to_target import TimeToTarget
from lightning_sfl.policies.solvers.uniform import best_uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestUniform(ReachesTarget):
    """One batch size and one cut for all: of all there are, the one that HASFL's objective is least for.

    What any gain by treating clients differently is to be measured against. A client with fewer samples than the batch
    uses all it has.

    Args:
        target: ε; see :class:`lightning_sfl.policies.hasfl.HASFL`.
        most_batch: The largest batch.
    """

    def decide(self, seen: Observation) -> Decision:
        """See :class:`lightning_sfl.policies.decision.Policy`.

        Raises:
            ValueError: The algorithm is another than ``splitfed_shared`` and ``splitfed_v1``.
            InfeasibleError: No cut and batch size for all reaches the target.
        """
        found = posed(seen, self.target, self.most_batch)
        nearest(seen, found.problem)
        choice = best_uniform(found.problem, seen.samples)
        if choice is None:
            raise _none(seen, found.problem)
        reason = f"the target is expected in {choice.seconds:.4g} s, sooner than with any other that all share"
        return decision(seen, found, choice, reason=reason)


def _none(seen: Observation, problem: TimeToTarget) -> InfeasibleError:
    """Why nothing that all share will do though something else would."""
    # At its best cut, the client that can hold least is the one that all others would have to be held back for.
    most = problem.most.min(axis=0)
    cut = int(most.argmax())
    client = int(problem.most[:, cut].argmin())
    return InfeasibleError(
        f"No cut and batch size for all reaches target={problem.target:g}: client {seen.clients[client]} can hold"
        f" batches of {most[cut]} at most at the cut {seen.world.profile.cuts[cut]!r}, where all can hold most."
        if most[cut] > 0
        else f"No cut is one that all can hold: client {seen.clients[int((problem.most > 0).sum(axis=1).argmin())]} can"
        f" hold {int((problem.most > 0).sum(axis=1).min())} of {len(most)}."
    )
