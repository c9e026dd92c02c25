"""The best of the choices that are the same for everybody."""

import numpy as np

from lightning_sfl.policies.solvers.time_to_target import Choice, TimeToTarget
from lightning_sfl.world.arrays import IntArray


def best_uniform(problem: TimeToTarget, samples: IntArray) -> Choice | None:
    """One cut and one batch size for all, by looking at all of them; None where none of them reaches the target.

    Args:
        problem: What may be chosen, and what it takes.
        samples: What each client holds, (K,): one that holds less than a batch uses all it has.
    """
    clients, cuts = problem.most.shape
    sizes = np.arange(1, int(problem.most.max()) + 1)
    batches = np.minimum(sizes[:, None], samples)
    best: Choice | None = None
    for cut in range(cuts):
        same = np.full_like(batches, cut)
        usable = problem.accepts(same, batches)
        if not usable.any():
            continue
        seconds = np.where(usable, problem.seconds(same, batches), np.inf)
        place = int(seconds.argmin())
        if np.isfinite(seconds[place]) and (best is None or seconds[place] < best.seconds):
            best = Choice(cut=np.full(clients, cut), batch_size=batches[place], seconds=float(seconds[place]))
    return best
