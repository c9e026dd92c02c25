"""Law 7: where theory says that a gradient gives its label away, it does so exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from attacks.labels.clustering import clustered_labels
from attacks.labels.direction import cosines
from attacks.labels.every_class import best_class
from attacks.labels.logits import are_of_logits
from attacks.statistics.one_vs_rest import areas

SIZES = {"records": st.integers(4, 12), "width": st.integers(1, 6), "seed": st.integers(0, 99)}


def drawn(records: int, width: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smashed data, and labels of which every class has two records at least."""
    draw = torch.Generator().manual_seed(seed)
    smashed = torch.randn(records, width, generator=draw, dtype=torch.float64)
    labels = torch.arange(records) % classes
    return smashed.requires_grad_(), labels[torch.randperm(records, generator=draw)]


def first_of_each(labels: torch.Tensor) -> dict[int, int]:
    return {int(label): int((labels == label).nonzero()[0]) for label in labels.unique()}


@given(**SIZES)
def test_behind_one_logit_the_direction_is_the_label(records, width, seed):
    """The logit is s = w·z + b, so a record's gradient is (sigmoid(s) - y)·w: along w for y = 0, against it for y = 1.

    Its cosine with a record of the same class is 1, with one of the other -1: an area of 1 for either class.
    """
    smashed, labels = drawn(records, width, 2, seed)
    torch.manual_seed(seed)
    head = nn.Linear(width, 1).double()
    loss = binary_cross_entropy_with_logits(head(smashed)[:, 0], labels.double())
    (rows,) = torch.autograd.grad(loss, [smashed])

    known = {label: rows[place] for label, place in first_of_each(labels).items()}
    scores_NK = cosines(rows, known)

    found = areas(scores_NK, tuple(known), labels)
    assert found is not None
    assert found.mean == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(scores_NK.abs(), torch.ones_like(scores_NK), rtol=1e-9, atol=0)
    clusters = clustered_labels(
        rows, torch.stack(list(known.values())), torch.tensor(list(known)), random_starts=2, on_sphere=True, seed=0
    )
    assert torch.equal(clusters, labels)


@given(**SIZES)
def test_an_unsure_model_has_longer_gradients_for_the_rare_class(records, width, seed):
    """‖(p - y)·w‖ is (1 - p)·‖w‖ for y = 1 and p·‖w‖ for y = 0; a bias of -1 - max|w·z| keeps every p below 1/2."""
    smashed, labels = drawn(records, width, 2, seed)
    torch.manual_seed(seed)
    head = nn.Linear(width, 1).double()
    with torch.no_grad():
        head.bias.fill_(-1 - float((smashed @ head.weight.T).abs().max()))
    loss = binary_cross_entropy_with_logits(head(smashed)[:, 0], labels.double())
    (rows,) = torch.autograd.grad(loss, [smashed])

    found = areas(rows.norm(dim=1, keepdim=True), None, labels)

    assert found is not None
    assert found.mean == 1


@given(classes=st.integers(2, 5), **SIZES)
def test_the_gradient_of_logits_is_softmax_minus_one_hot(classes, records, width, seed):
    """All numbers but that at the label are softmax's, which are above 0; that one is p - 1, which is below."""
    logits, labels = drawn(2 * records, classes, classes, seed)

    (rows,) = torch.autograd.grad(cross_entropy(logits, labels), [logits])

    assert are_of_logits(rows)
    assert torch.equal(rows.argmin(dim=1), labels)
    assert are_of_logits(rows.bfloat16().double())
    steps = 255 / float(rows.max() - rows.min())  # 8 bits: rounded to 256 levels
    assert are_of_logits((rows * steps).round() / steps)


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([[1.0, -1.0], [-1.0, -1.0]]),  # two below zero
        torch.tensor([[1.0, -0.5], [0.5, -0.5]]),  # does not sum to zero
        torch.tensor([[1.0, 1.0, -1.0, -1.0]] * 2),  # two below zero, and none as large as all others
        torch.zeros(2, 3),
        torch.tensor([[-0.5], [0.5]]),  # one logit
    ],
)
def test_other_gradients_are_not_taken_for_those_of_logits(rows):
    assert not are_of_logits(rows)


@given(classes=st.integers(2, 5), **SIZES)
def test_the_true_class_is_the_one_that_explains_the_gradient(classes, records, width, seed):
    """With the layers behind the cut at hand, the true labels give the very gradient: nothing is left unexplained.

    Different classes give different gradients wherever the head's rows differ, as drawn ones do.
    """
    smashed, labels = drawn(records, width, classes, seed)
    torch.manual_seed(seed)
    behind = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, classes)).double()

    def gradients_of(labels_B):
        return torch.autograd.grad(cross_entropy(behind(smashed), labels_B), [smashed])

    found, unexplained = best_class(gradients_of, gradients_of(labels), range(classes))

    assert torch.equal(found, labels)
    assert unexplained == 0


def test_gradients_that_did_not_cross_are_passed_over():
    labels = torch.tensor([1, 0])
    logits = torch.zeros(2, 2, requires_grad=True)

    def gradients_of(labels_B):
        return (*torch.autograd.grad(cross_entropy(logits, labels_B), [logits]), None)

    found, _ = best_class(gradients_of, gradients_of(labels), [0, 1])

    assert torch.equal(found, labels)
