import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.labels.clustering import GradientClusters, clustered_labels
from attacks.labels.k_means import k_means, named


def around(centres_KD: torch.Tensor, each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows within 0.1 of centres that are further apart than 1, and whose each is."""
    draw = torch.Generator().manual_seed(seed)
    whose = torch.arange(len(centres_KD)).repeat(each)
    noise = torch.rand(len(whose), centres_KD.shape[1], generator=draw, dtype=torch.float64) - 0.5
    return centres_KD[whose] + 0.1 * noise, whose


@given(clusters=st.integers(2, 5), each=st.integers(2, 5), seed=st.integers(0, 50), on_sphere=st.booleans())
def test_what_lies_apart_is_found_from_random_rows(clusters, each, seed, on_sphere):
    """Clusters around unit vectors along the axes, which are √2 apart: far more than the 0.1 within each."""
    rows, whose = around(torch.eye(clusters, 6, dtype=torch.float64), each, seed)

    found = k_means(rows, [], clusters=clusters, random_starts=10, on_sphere=on_sphere, seed=seed)

    same_N = found.cluster_N[:, None] == found.cluster_N
    assert torch.equal(same_N, whose[:, None] == whose)
    assert found.spread < 0.05


def test_on_the_sphere_lengths_do_not_matter():
    rows, _ = around(torch.eye(3, dtype=torch.float64), 4, 0)
    scales = torch.logspace(-6, 6, len(rows), dtype=torch.float64)[:, None]

    short = k_means(rows, [rows[:3]], clusters=3, random_starts=0, on_sphere=True, seed=0)
    long = k_means(scales * rows, [rows[:3]], clusters=3, random_starts=0, on_sphere=True, seed=0)

    assert torch.equal(short.cluster_N, long.cluster_N)


def test_the_start_that_leads_to_the_least_spread_is_kept():
    """Two starting centres in one heap leave the other two in one cluster; the other start finds all three."""
    rows = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]], dtype=torch.float64)
    poor, good = rows[[0, 1, 2]], rows[[0, 2, 4]]

    def found(*starts):
        return k_means(rows, list(starts), clusters=3, random_starts=0, on_sphere=False, seed=0)

    assert found(poor).spread > 1
    assert found(good).spread == pytest.approx(0.0025)
    assert found(poor, good).spread == found(good, poor).spread == found(good).spread


def test_random_starts_follow_the_seed_and_no_global_state():
    rows, _ = around(torch.eye(4, dtype=torch.float64), 3, 1)
    state = torch.get_rng_state()

    one, other = (k_means(rows, [], clusters=4, random_starts=3, on_sphere=True, seed=5) for _ in range(2))

    assert torch.equal(one.cluster_N, other.cluster_N)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_that_are_all_alike_are_one_cluster():
    found = k_means(torch.ones(5, 2).double(), [], clusters=3, random_starts=2, on_sphere=False, seed=0)

    assert found.spread == 0
    assert len(found.cluster_N.unique()) == 1


def test_clusters_are_named_one_to_one():
    """Both centres are nearest to the first reference, and each must have one of its own: DAGER's score, with its best
    prediction for every reference with replacement, would name both alike.

    Squared distances are [[0.01, 4], [0.25, 2.25]]: 0.01 + 2.25 is less than 4 + 0.25.
    """
    centres, references = torch.tensor([[0.1], [0.5]]), torch.tensor([[0.0], [2.0]])

    assert named(centres, references).tolist() == [0, 1]
    assert named(centres.flip(0), references).tolist() == [1, 0]


def test_a_class_takes_the_name_of_its_known_record():
    rows, whose = around(torch.eye(3, dtype=torch.float64), 4, 2)

    found = clustered_labels(rows, rows[:3], torch.tensor([7, 3, 9]), random_starts=5, on_sphere=True, seed=0)

    assert torch.equal(found, torch.tensor([7, 3, 9])[whose])


def test_a_number_of_starts_below_zero_is_refused():
    with pytest.raises(ValueError, match="random_starts=-1"):
        GradientClusters(random_starts=-1)
