"""What clients see: the formulas on gradients made by hand, then an honest server and one that hijacks."""

import math

import pytest
import torch
from malicious_cases import HonestServer, clients_of, digits_run
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.malicious.detector import SCRUTINIZER, SPLIT_GUARD, Watch, label_gap, split_guard_score, summary


def test_split_guard_scores_an_opposite_answer_by_its_formula():
    """R1 = R2 = (1, 0) and F = (0, 3): θ(F, R) = π/2, d(F, R) = 2, d(R1, R2) = 0, so S = π/2 and the score is
    σ(5π/2)²."""
    regular, fake = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])

    assert split_guard_score(fake, regular, regular) == pytest.approx((1 / (1 + math.exp(-2.5 * math.pi))) ** 2)


def test_split_guard_gives_a_server_that_ignores_labels_a_quarter():
    """F = R1 = R2: no angle, no difference, S = 0 and σ(0)² = 1/4; the same where nothing differs but two halves do so
    with no angle between them."""
    one = torch.tensor([1.0, 2.0])

    assert split_guard_score(one, one, one) == 0.25
    assert split_guard_score(2 * one, one, 3 * one) == pytest.approx(0.25)


def test_split_guard_falls_where_true_labels_differ_more_than_false_ones():
    """F = R = (1, 1)/2 has no difference to R; R1 = (1, 0) and R2 = (0, 1) have equal lengths, so all is 0 but with
    R2 = (0, 2): R = (1/2, 1), d(R1, R2) = 1, θ(R1, R2) = π/2 and S = -π/2."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])

    assert split_guard_score((first + second) / 2, first, second) == pytest.approx(
        (1 / (1 + math.exp(2.5 * math.pi))) ** 2
    )


def test_the_label_gap_is_the_mean_cosine_within_labels_less_that_across():
    """Rows (1, 0), (2, 0) of label 0 and (0, 3), (0, -1) of label 1: within, the cosines are 1 and -1, their mean 0;
    across all are 0. With (0, 1) for the last the gap is 1."""
    labels = torch.tensor([0, 0, 1, 1])
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, -1.0]])

    assert label_gap(rows, labels) == pytest.approx(0.0)
    assert label_gap(torch.cat([rows[:3], -rows[3:]]), labels) == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 1]])
def test_a_batch_without_both_kinds_of_pairs_has_no_gap(labels):
    assert label_gap(torch.eye(3), torch.tensor(labels)) is None


def test_false_labels_are_all_wrong_and_come_in_a_tenth_of_the_batches():
    """Of 2,000 batches 200 are expected with standard deviation 13.4."""
    watch, labels = Watch(seed=0), torch.arange(10)
    sent = [watch.labels_to_send(labels) for _ in range(2000)]
    fakes = [found for found in sent if not torch.equal(found, labels)]

    assert all((found != labels).all() and found.min() >= 0 and found.max() < 10 for found in fakes)
    assert 150 < len(fakes) < 250


def answered(server, *, answers: int) -> Watch:
    """A watch over so many answers of a server to a linear classifier's features."""
    draw = torch.Generator().manual_seed(0)
    watch = Watch(seed=1)
    centres = 2 * torch.randn(4, 16, generator=draw)
    for _ in range(answers):
        labels = torch.randint(4, (16,), generator=draw)
        features = (centres[labels] + torch.randn(16, 16, generator=draw)).requires_grad_()
        told = watch.labels_to_send(labels)
        (gradient,) = torch.autograd.grad(server(features, told), [features])
        watch.saw(gradient)
    return watch


def test_an_honest_server_raises_no_alarm_and_one_that_ignores_labels_raises_both():
    torch.manual_seed(0)
    head, other = nn.Linear(16, 4), nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)

    def honest(features, labels):
        loss = cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
        return cross_entropy(head(features.clone()), labels)

    fine = answered(honest, answers=150)
    flagged = answered(lambda features, labels: other(features).mean(), answers=150)

    assert fine.alarms == {}
    assert set(flagged.alarms) == {SPLIT_GUARD, SCRUTINIZER}
    assert summary({0: fine, 1: flagged}).startswith("SplitGuard would have warned 1 of 2 clients, first after ")


def test_an_honest_server_behind_a_real_half_is_not_flagged():
    """The session's clients are answered by the run's own server half, which goes on training."""
    run = digits_run(steps=4)
    clients = clients_of(run)
    server = HonestServer(run.model)

    for _ in range(180):
        sent = clients.send()
        clients.answer([server.answer(sent.smashed[0], sent.known["1"])])

    assert "SplitGuard would have warned 0 of 3 clients; Gradients Scrutinizer would have warned 0 of 3" in (
        clients.noticed()
    )
