import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from attacks.statistics.permutation import auc, auc_p_value

RECORDS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=20)


def both_kinds(records):
    scores, positive = zip(*records, strict=True)
    assume(0 < sum(positive) < len(positive))
    return torch.tensor(scores, dtype=torch.float32) / 3, torch.tensor(positive)


@given(records=RECORDS)
def test_equals_sklearn_with_ties(records):
    scores_N, positive_N = both_kinds(records)

    assert auc(scores_N, positive_N) == pytest.approx(roc_auc_score(positive_N.numpy(), scores_N.numpy()))


def test_by_hand():
    """Positives 3 and 1 against negatives 2, 1 and 0: 3 beats three, 1 beats one and ties with one, of 6 pairs."""
    scores_N, positive_N = torch.tensor([3.0, 2.0, 1.0, 1.0, 0.0]), torch.tensor([1, 0, 1, 0, 0])

    assert auc(scores_N, positive_N) == pytest.approx((3 + 1.5) / 6)


@pytest.mark.parametrize("positive", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("measure", [auc, auc_p_value])
def test_records_of_one_kind_are_refused(measure, positive):
    with pytest.raises(ValueError, match="records of both kinds"):
        measure(torch.arange(3.0), torch.tensor(positive))


@pytest.mark.parametrize("measure", [auc, auc_p_value])
def test_a_score_that_is_no_number_is_refused(measure):
    """Regression: ranks of NaN are NaN, no permutation reaches them, and p would be the least there is."""
    with pytest.raises(ValueError, match="no numbers"):
        measure(torch.tensor([0.1, float("nan"), 0.3]), torch.tensor([0, 1, 1]))


def test_infinite_scores_are_ranked():
    assert auc(torch.tensor([float("inf"), 5.0, -float("inf")]), torch.tensor([1, 0, 0])) == 1


@given(records=RECORDS)
def test_p_is_the_same_for_the_opposite_order(records):
    scores_N, positive_N = both_kinds(records)

    assert auc_p_value(-scores_N, positive_N) == auc_p_value(scores_N, positive_N)


@pytest.mark.parametrize("sign", [1, -1])
def test_p_of_a_perfect_order_is_the_share_of_orders_as_good(sign):
    """3 of 6 positive: 1 of C(6, 3) = 20 choices is as high, and 1 as low; both ends count: 1/10."""
    scores_N = sign * torch.arange(6.0)

    assert auc_p_value(scores_N, torch.tensor([0, 0, 0, 1, 1, 1])) == pytest.approx(0.1, abs=0.025)


def test_p_of_scores_that_say_nothing_is_one():
    """All are tied, so every order has an AUC of one half."""
    assert auc_p_value(torch.ones(8), torch.arange(8) % 2) == 1


def test_p_is_never_zero():
    """(1 + 0) / (1 + 2000) where none of 2000 orders reaches what was found."""
    assert auc_p_value(torch.arange(40.0), torch.arange(40) >= 20) == pytest.approx(1 / 2001)


def test_p_is_about_uniform_where_scores_have_nothing_to_do_with_labels():
    """40 draws: mean 1/2 with standard error 0.29/√40 = 0.046, and P(p ≤ 0.2) = 0.2 with 0.063; three of each."""
    draw = np.random.default_rng(0)
    positive_N = torch.arange(24) % 3 == 0

    found = np.array([auc_p_value(torch.tensor(draw.random(24)), positive_N, seed=seed) for seed in range(40)])

    assert abs(found.mean() - 0.5) < 0.14
    assert abs((found <= 0.2).mean() - 0.2) < 0.19


def test_the_seed_settles_p_and_the_global_random_state_is_left_alone():
    scores_N, positive_N = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.2, 0.4]), torch.tensor([0, 1, 0, 1, 1, 0])
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    first = auc_p_value(scores_N, positive_N, seed=1)

    assert auc_p_value(scores_N, positive_N, seed=1) == first
    assert auc_p_value(scores_N, positive_N, seed=2) != first
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
