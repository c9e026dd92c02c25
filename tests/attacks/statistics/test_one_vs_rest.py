import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from attacks.statistics.one_vs_rest import areas, by_chance
from attacks.statistics.permutation import auc

LABELS = st.lists(st.integers(0, 3), min_size=3, max_size=25)


def drawn(labels: list[int], columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Coarse scores, so that there are ties."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, (len(labels), columns), generator=draw).double(), torch.tensor(labels)


@given(labels=LABELS, seed=st.integers(0, 20))
def test_equals_sklearn_class_by_class(labels, seed):
    assume(len(set(labels)) > 1)
    scores_NK, labels_N = drawn(labels, 4, seed)

    found = areas(scores_NK, (0, 1, 2, 3), labels_N)

    expected = [roc_auc_score((labels_N == k).numpy(), scores_NK[:, k].numpy()) for k in sorted(set(labels))]
    assert found.mean == pytest.approx(np.mean(expected))
    assert float(found.parts_N.mean()) == pytest.approx(found.mean)


@given(labels=LABELS, seed=st.integers(0, 20))
def test_what_is_beyond_averages_to_the_area_of_its_class(labels, seed):
    assume(len(set(labels)) > 1)
    scores_NK, labels_N = drawn(labels, 4, seed)

    found = areas(scores_NK, (0, 1, 2, 3), labels_N)

    for label in set(labels):
        own = labels_N == label
        assert float(found.beyond_N[own].mean()) == pytest.approx(auc(scores_NK[:, label], own))


def test_parts_by_hand():
    """Positives 3 and 1 against negatives 2 and 0: 3 beats both, 1 beats one; 2 is beaten by one, 0 by both. Area 3/4.

    A record's part is the area plus (its share - the area)·N/n of its kind: 3/4 + (1 - 3/4)·4/2 = 5/4 and 1/4.
    """
    scores_NK, labels_N = torch.tensor([[3.0], [1.0], [2.0], [0.0]]), torch.tensor([1, 1, 0, 0])

    found = areas(scores_NK, (1,), labels_N)

    assert found.mean == 0.75
    assert found.parts_N.tolist() == [1.25, 0.25, 0.25, 1.25]
    assert found.beyond_N.tolist() == [1, 0.5, 0.5, 0.5]


def test_parts_vary_as_delong_says():
    """The variance of the area is S10/P + S01/Q with the components' variances (DeLong et al. 1988), also where classes
    are of very different sizes; the mean of N parts has the sum of squares over N² for its own."""
    draw = torch.Generator().manual_seed(0)
    labels_N = (torch.arange(60) < 6).long()
    scores_NK = torch.randn(60, 1, generator=draw) + labels_N[:, None]
    positive, negative = scores_NK[labels_N == 1, 0], scores_NK[labels_N == 0, 0]
    beats = (positive[:, None] > negative).double()

    found = areas(scores_NK, (1,), labels_N)

    variance = beats.mean(1).var(correction=0) / 6 + beats.mean(0).var(correction=0) / 54
    assert float((found.parts_N - found.mean).square().sum() / 60**2) == pytest.approx(float(variance))


@given(labels=LABELS, seed=st.integers(0, 20))
def test_without_names_either_order_counts(labels, seed):
    assume(len(set(labels)) > 1)
    scores_NK, labels_N = drawn(labels, 1, seed)

    found, turned = areas(scores_NK, None, labels_N), areas(-scores_NK, None, labels_N)

    expected = [max(a := auc(scores_NK[:, 0], labels_N == k), 1 - a) for k in set(labels)]
    assert found.mean == pytest.approx(np.mean(expected))
    assert turned.mean == pytest.approx(found.mean)
    assert float(found.parts_N.mean()) == pytest.approx(found.mean)


def test_an_order_that_may_be_turned_is_compared_with_turned_chance():
    """Of 4 records in 2 classes, max(A, 1 - A) takes 1, 3/4, 1/2, 1/2, 3/4, 1 over the 6 ways to deal labels: 3/4 in
    the mean, so 3/4 is no leak, and the largest comes up by chance in one of three."""
    scores_NK, labels_N = torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 1])

    chance = by_chance(scores_NK, None, labels_N)

    assert chance.mean == pytest.approx(0.75, abs=0.02)
    assert chance.p_value == pytest.approx(1 / 3, abs=0.04)


def test_named_classes_are_tested_on_one_side():
    """Wholly upside down is what a named column must not be: nothing dealt at random is worse."""
    scores_NK, labels_N = torch.arange(10.0)[:, None], torch.tensor([1] * 5 + [0] * 5)

    assert by_chance(scores_NK, (1,), labels_N).p_value == 1
    assert by_chance(-scores_NK, (1,), labels_N).p_value < 0.02
    assert by_chance(scores_NK, (1,), labels_N).mean == 0.5


def test_the_p_value_of_noise_is_uniform():
    """Over 12 draws their mean is 1/2 ± 0.083, and one is below 0.1 on average: more than four in one case of 200."""
    values = []
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        scores_NK = torch.randn(12, 3, generator=draw)
        values.append(by_chance(scores_NK, (0, 1, 2), torch.arange(12) % 3, seed=seed).p_value)

    assert np.mean(values) == pytest.approx(0.5, abs=0.25)
    assert sum(value < 0.1 for value in values) <= 4


@pytest.mark.parametrize(("labels", "classes"), [([1, 1, 1], (1,)), ([0, 1, 2], (3,)), ([1, 1, 1], None)])
def test_where_no_class_has_an_area_nothing_is_shown(labels, classes):
    scores_NK, labels_N = torch.arange(3.0)[:, None], torch.tensor(labels)

    assert areas(scores_NK, classes, labels_N) is None
    assert by_chance(scores_NK, classes, labels_N).p_value == 1


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 of 3 are no numbers"):
        areas(torch.tensor([[1.0], [float("nan")], [0.0]]), (1,), torch.tensor([0, 1, 1]))
