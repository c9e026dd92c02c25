"""What HASFL's solvers are judged by: all choices looked at, one after the other."""

import itertools

import numpy as np


def every_choice(problem):
    """All choices of cuts and batches of all clients, (M, K) each."""
    options = [
        [
            (cut, size)
            for cut in range(problem.most.shape[1])
            for size in range(problem.least[client, cut], problem.most[client, cut] + 1)
        ]
        for client in range(len(problem.most))
    ]
    places = np.array(list(itertools.product(*(range(len(each)) for each in options))))
    taken = np.stack([np.array(each)[places[:, client]] for client, each in enumerate(options)], axis=1)
    return taken[..., 0], taken[..., 1]


def best_and_worst(problem):
    """The least and the largest finite time to the target of all choices; None where none reaches it."""
    seconds = problem.seconds(*every_choice(problem))
    reached = seconds[np.isfinite(seconds)]
    return (reached.min(), reached.max()) if len(reached) else None
