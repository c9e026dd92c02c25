import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from attacks.gradients.labels import (
    counts_by_bias,
    counts_by_impact,
    dealt,
    idlg,
    idlg_by_bias,
    labels_of,
    mean_probability,
    rounded_counts,
    unique_labels,
)


def last_layer(labels, classes, features=12, seed=0, *, signed=False, scale=0.1):
    """Gradients of a last layer (weight, bias), and its scores, on drawn features."""
    draw = torch.Generator().manual_seed(seed)
    features_BF = torch.rand(len(labels), features, generator=draw) - (0.5 if signed else 0)
    weight = (scale * torch.randn(classes, features, generator=draw)).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    scores = features_BF @ weight.T + bias
    cross_entropy(scores, torch.tensor(labels)).backward()
    return weight.grad, bias.grad, scores.detach()


@settings(deadline=None, max_examples=30)
@given(data=st.data(), classes=st.integers(2, 20), seed=st.integers(0, 999), scale=st.sampled_from([0.01, 1.0, 3.0]))
def test_the_label_of_one_record_is_exact(data, classes, seed, scale):
    """p − y is negative for the label alone; so is its row, where features are not negative."""
    label = data.draw(st.integers(0, classes - 1))
    weight, bias, _ = last_layer([label], classes, seed=seed, scale=scale)

    assert idlg(weight) == idlg_by_bias(bias) == label


def test_by_the_bias_the_label_is_exact_for_features_of_any_sign():
    for label in range(6):
        assert idlg_by_bias(last_layer([label], 6, seed=label, signed=True)[1]) == label


@settings(deadline=None, max_examples=20)
@given(labels=st.sets(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_unique_labels_are_the_rows_with_the_most_negative_entries(labels, seed):
    """Near-uniform p: a label's row falls by about 0.9·h, the others rise by 0.1·h, in every entry."""
    found = unique_labels(last_layer(list(labels), 10, seed=seed, scale=0.01)[0], len(labels))

    assert found.tolist() == sorted(labels)


@settings(deadline=None, max_examples=30)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_counts_by_bias_are_exact_with_the_true_probabilities(labels, seed):
    """counts = Σp − B·gradient holds for any victim; scores of large scale stand for a trained one."""
    _, bias, scores = last_layer(labels, 6, seed=seed, scale=3.0)

    found = counts_by_bias(bias, mean_probability(scores), len(labels))

    assert found.tolist() == one_hot(torch.tensor(labels), 6).sum(0).tolist()
    assert labels_of(found).tolist() == sorted(labels)


def test_counts_by_bias_from_other_inputs_of_a_hardly_trained_victim():
    """p differs between inputs by far less than half a record in eight, so foreign inputs do."""
    labels = [3, 3, 7, 7, 7, 0, 1, 3]
    _, bias, _ = last_layer(labels, 10, seed=0, scale=0.05)
    foreign = last_layer([0] * 8, 10, seed=0, scale=0.05)[2].flip(0)

    assert labels_of(counts_by_bias(bias, mean_probability(foreign), 8)).tolist() == sorted(labels)


def test_impacts_are_taken_off_the_row_that_is_most_negative_now():
    """The stale-index bug: a peer finds the most negative row, then takes the impact off a row found before. Row sums
    −5, −3.1, 1 with B = 4: the impact is (−8.1)·(4/3)/4 = −2.7. Rows 0 and 1 have a record each for being negative,
    which leaves −2.3, −0.4; the third record is of class 0, leaving 0.4, −0.4; the fourth of class 1. With the stale
    index both go to class 0."""
    weight = torch.tensor([[-5.0], [-3.1], [1.0]])

    assert counts_by_impact(weight, 4).tolist() == [2, 2, 0]


@settings(deadline=None, max_examples=20)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=10), seed=st.integers(0, 99))
def test_impacts_measured_on_probes_count_exactly_where_features_have_equal_sums(labels, seed):
    """One-hot features times one weight for all: p is the same for every record, so a row sum is
    (B·p_k − count_k)/B, and probes of one class measure exactly −(1 − ...) per record and the offset p_k."""

    def gradient(own):
        bias = last_layer(own, 6, seed=seed, scale=0.0)[1]
        return bias[:, None]

    probes = [(gradient([label] * len(labels)), torch.tensor(label)) for label in range(6)]

    found = counts_by_impact(gradient(labels), len(labels), probes)

    assert found.tolist() == one_hot(torch.tensor(labels), 6).sum(0).tolist()


@given(
    raw=st.lists(st.floats(-2, 5), min_size=2, max_size=5),
    records=st.integers(1, 6),
)
def test_rounded_counts_sum_to_the_records_and_no_move_of_one_brings_them_nearer(raw, records):
    raw_K = torch.tensor(raw, dtype=torch.float64)

    counts = rounded_counts(raw_K, records)

    assert int(counts.sum()) == records
    assert int(counts.min()) >= 0
    apart = (counts - raw_K).square().sum()
    for source in range(len(raw)):
        for sink in range(len(raw)):
            if counts[source] > 0 and source != sink:
                moved = counts.clone()
                moved[source] -= 1
                moved[sink] += 1
                assert (moved - raw_K).square().sum() >= apart - 1e-9


def test_a_rounds_labels_are_dealt_over_its_steps_like_cards():
    """Sorted 0 0 1 2 2 into steps of 2, 1 and 2: first turn 0 | 0 | 1, second turn 2 | - | 2."""
    assert dealt(torch.tensor([2, 0, 1, 0, 2]), (2, 1, 2)).tolist() == [0, 2, 0, 1, 2]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_dealt_labels_are_the_same_labels(sizes, seed):
    labels = torch.randint(10, (sum(sizes),), generator=torch.Generator().manual_seed(seed))

    assert dealt(labels, sizes).sort().values.tolist() == labels.sort().values.tolist()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: unique_labels(torch.zeros(3, 2), 4), "records=4"),
        (lambda: counts_by_bias(torch.zeros(3), torch.zeros(3), 0), "records=0"),
        (lambda: counts_by_impact(torch.zeros(3, 2), 0), "records=0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call()
