"""Clusters of rows, by Lloyd's algorithm, and which class each is."""

import dataclasses

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters:
    """Rows in clusters.

    Attributes:
        cluster_N: The cluster of every row.
        centres_KD: Means of the clusters; on the sphere, their directions.
        spread: Mean squared distance of a row from its centre, which the search makes small.
    """

    cluster_N: Tensor
    centres_KD: Tensor
    spread: float


def k_means(
    rows_ND: Tensor, starts: list[Tensor], *, clusters: int, random_starts: int, on_sphere: bool, seed: int
) -> Clusters:
    """The clusters of least spread that a number of starts lead to.

    Lloyd 1982; random starts are spread out as by Arthur and Vassilvitskii 2007 (k-means++). On the sphere rows and
    centres are of length 1, and nearness is the cosine (Dhillon and Modha 2001).

    Args:
        rows_ND: The rows.
        starts: Centres to begin with, (K, D), beside the random starts.
        clusters: How many clusters.
        random_starts: How often to begin from rows drawn at random.
        on_sphere: Whether only directions matter.
        seed: Seeds the drawing.
    """
    if on_sphere:
        rows_ND, starts = normalize(rows_ND, eps=1e-300), [normalize(start, eps=1e-300) for start in starts]
    draw = torch.Generator().manual_seed(seed)
    spread_out = [_spread_out(rows_ND, clusters, draw) for _ in range(random_starts)]
    return min((_lloyd(rows_ND, start, on_sphere) for start in [*starts, *spread_out]), key=lambda found: found.spread)


def named(centres_KD: Tensor, references_KD: Tensor) -> Tensor:
    """Of every centre, the place of its reference: one to one, by least squared distance in all (Hungarian algorithm).

    Centres that are left over, where there are more of them, are given the nearest reference.
    """
    distance = torch.cdist(centres_KD, references_KD).square().cpu().numpy()
    found = torch.from_numpy(distance.argmin(axis=1))
    rows, columns = linear_sum_assignment(distance)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found


_MOST_ROUNDS = 300


def _lloyd(rows_ND: Tensor, centres_KD: Tensor, on_sphere: bool) -> Clusters:
    cluster_N = torch.full((len(rows_ND),), -1, device=rows_ND.device)
    distance_NK = torch.cdist(rows_ND, centres_KD)
    for _ in range(_MOST_ROUNDS):
        nearest_N = distance_NK.argmin(dim=1)
        if torch.equal(nearest_N, cluster_N):
            break
        cluster_N = nearest_N
        centres_KD = torch.stack(
            [
                rows_ND[cluster_N == place].mean(dim=0) if (cluster_N == place).any() else centre_D
                for place, centre_D in enumerate(centres_KD)
            ]
        )
        if on_sphere:
            centres_KD = normalize(centres_KD, eps=1e-300)
        distance_NK = torch.cdist(rows_ND, centres_KD)
    spread = float(distance_NK.gather(1, cluster_N[:, None]).square().mean())
    return Clusters(cluster_N=cluster_N, centres_KD=centres_KD, spread=spread)


def _spread_out(rows_ND: Tensor, clusters: int, draw: torch.Generator) -> Tensor:
    """Rows drawn one after the other, each with a chance in proportion to its squared distance from those before."""
    chosen = [int(torch.randint(len(rows_ND), (), generator=draw))]
    while len(chosen) < clusters:
        weight_N = torch.cdist(rows_ND, rows_ND[chosen]).amin(dim=1).square().cpu()
        if not weight_N.sum() > 0:  # fewer different rows than clusters
            weight_N = torch.ones_like(weight_N)
        chosen.append(int(torch.multinomial(weight_N, 1, generator=draw)))
    return rows_ND[chosen]
