"""What HASFL's solvers are judged by: all choices looked at, one after the other."""

import itertools

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


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


def best_split(problem, start, rounds=50):
    """The least time to the target over cuts at fixed batches: Dinkelbach's method, every step a mixed-integer program.

    Binaries x_kc (client k cuts at c) and z_L (the deepest cut is L), and a number for each maximum. At a ratio λ,

        min  t_up + t_back + Σ s_kc x_kc (or t_server) + (e_1 + e_2 + Σ_L agg_L z_L)/I + λ Σ_L D_L z_L,
        t_up >= Σ_c up_kc x_kc for every k, and so on; e_1, e_2 >= line_L z_L - Σ own_c x_kc; depth(z) >= depth(x_k).

    The variance is that of the batches. D, averaging and the line grow with L, so z is the deepest cut itself.
    """
    batch = problem.most.max(axis=1)
    ratio = start / problem.steps_factor
    for _ in range(rounds):
        cut = _milp_cuts(problem, batch, ratio)
        found = float(problem.seconds(cut, batch)) / problem.steps_factor
        if not found < ratio * (1 - 1e-12):
            return ratio * problem.steps_factor
        ratio = found
    raise AssertionError("Dinkelbach's method did not end")


def _milp_cuts(problem, batch, ratio):
    clients, cuts = problem.most.shape
    table = problem.lines.at(batch)
    binaries = clients * cuts
    deepest, maxima = binaries, binaries + cuts  # where z and t_up, t_back, t_server, e_1, e_2 begin
    count = maxima + 5
    cost = np.zeros(count)
    cost[maxima : maxima + 2] = 1
    if problem.serial:
        cost[:binaries] = table.server_s.ravel()
    else:
        cost[maxima + 2] = 1
    cost[maxima + 3 :] = 1 / problem.interval
    cost[deepest:maxima] = problem.ends.aggregation_s / problem.interval + ratio * problem.drift
    rows, lower, upper = [], [], []

    def add(row, low, high):
        rows.append(row)
        lower.append(low)
        upper.append(high)

    for client in range(clients):
        own = slice(client * cuts, (client + 1) * cuts)
        row = np.zeros(count)
        row[own] = 1
        add(row, 1, 1)
        row = np.zeros(count)
        row[own], row[deepest:maxima] = np.arange(cuts), -np.arange(cuts)
        add(row, -np.inf, 0)
        tables = (table.up_s, table.back_s, table.server_s, problem.ends.broadcast_s, problem.ends.upload_s)
        for place, each in enumerate(tables):
            row = np.zeros(count)
            row[own], row[maxima + place] = each[client], -1
            add(row, -np.inf, 0)
    for place in (3, 4):
        row = np.zeros(count)
        row[:binaries] = np.tile(-problem.ends.own_s, clients)
        row[deepest:maxima] = problem.line_s(np.arange(cuts), clients)
        row[maxima + place] = -1
        add(row, -np.inf, 0)
    row = np.zeros(count)
    row[deepest:maxima] = 1
    add(row, 1, 1)
    most = np.ones(count)
    most[:binaries] = problem.allowed.ravel()
    most[deepest : deepest + problem.floor] = 0
    most[maxima:] = np.inf
    integral = np.r_[np.ones(maxima), np.zeros(5)]
    found = milp(
        cost,
        integrality=integral,
        bounds=Bounds(np.zeros(count), most),
        constraints=LinearConstraint(np.array(rows), lower, upper),
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    return found.x[:binaries].reshape(clients, cuts).argmax(axis=1)


def newton_jacobi(problem, cut, sweeps=200):
    """Batch sizes at fixed cuts as HASFL's paper finds them (as recalled), rounded to the better of floor and ceil.

    With the maxima held, ∂Θ/∂b_i = 0 is s_i · slack - T κ / b_i² = 0. All clients take a Newton step on their own
    equation at once, are clipped to what they can hold, and the maxima are taken anew. What it ends at is returned as
    the better of all rounded down and all rounded up.
    """
    who = np.arange(len(cut))
    most = problem.most[who, cut].astype(float)
    rate = problem.lines.per_sample.server_s[who, cut]
    batch = np.sqrt(most)
    factor = problem.variance_factor
    for _ in range(sweeps):
        slack = max(float(problem.slack(cut, batch)), 1e-12)
        time = float(problem.step_s(cut, batch))
        value = rate * slack - time * factor / batch**2
        slope = 2 * time * factor / batch**3
        batch = np.clip(batch - value / slope, 1, most)
    options = [np.floor(batch).astype(int), np.minimum(np.ceil(batch), most).astype(int)]
    return min(float(problem.seconds(cut, option)) for option in options), batch
