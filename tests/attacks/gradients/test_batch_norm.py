import pytest
import torch
from gradient_cases import SPACE, small_net, unit_images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.gradients.batch_norm import (
    InvertingWithBatchStatistics,
    batch_statistic,
    shares_of_steps,
    with_statistics,
)
from attacks.gradients.inverting import InvertingGradients


def normalised_net(momentum=0.1):
    net = small_net()
    return nn.Sequential(net[0], nn.BatchNorm2d(8, momentum=momentum), *net[1:]).train()


def last_bias_alone(net):
    """A gradient that says little, of one step on the whole batch; a training net's statistics would move."""

    def gradient(images, labels):
        with torch.enable_grad():
            loss = cross_entropy(net(images), labels)
            return torch.autograd.grad(loss, [net[-1].bias], create_graph=torch.is_grad_enabled())

    return gradient


@settings(deadline=None, max_examples=10)
@given(steps=st.integers(1, 4), momentum=st.sampled_from([0.1, 0.3, 1.0]), seed=st.integers(0, 99))
def test_running_statistics_say_what_the_batches_were(steps, momentum, seed):
    """Law 7, with torch's own layer in 64 bits: one step, r′ = (1 − m)r + m·batch, gives the batch's mean and unbiased
    variance exactly; several steps give Σ m(1 − m)^(E−1−k)·batch_k over 1 − (1 − m)^E."""
    norm = nn.BatchNorm2d(3, momentum=momentum).double()
    draw = torch.Generator().manual_seed(seed)
    batches = [torch.rand(4, 3, 5, 5, generator=draw, dtype=torch.float64) for _ in range(steps)]
    norm(torch.rand(4, 3, 5, 5, generator=draw, dtype=torch.float64))
    before = [norm.running_mean.clone(), norm.running_var.clone()]
    for batch in batches:
        norm(batch)

    seen = [
        batch_statistic(a, b, momentum, steps)
        for a, b in zip(before, (norm.running_mean, norm.running_var), strict=True)
    ]

    shares = shares_of_steps(momentum, steps)
    assert sum(shares) == pytest.approx(1)
    means = sum(share * batch.mean((0, 2, 3)) for share, batch in zip(shares, batches, strict=True))
    variances = sum(
        share * batch.transpose(0, 1).flatten(1).var(1) for share, batch in zip(shares, batches, strict=True)
    )
    assert torch.allclose(seen[0], means, atol=1e-12)
    assert torch.allclose(seen[1], variances, atol=1e-12)


def test_statistics_come_along_with_the_gradient_step_by_step():
    """Two passes of one layer: what entered is weighed by 1 − m to 1 over 2 − m, as running statistics do."""
    net = normalised_net(0.5)
    parts = unit_images(4).split(2)

    def both_steps(images, labels):
        return [*last_bias_alone(net)(images[:2], labels[:2]), *last_bias_alone(net)(images[2:], labels[2:])]

    found = with_statistics(both_steps, (net[1],), 2, scale=3.0)(unit_images(4), torch.tensor([0, 1, 2, 3]))

    entering = [net[0](part).transpose(0, 1).flatten(1) for part in parts]
    assert len(found) == 4
    assert torch.allclose(found[2], 3 * (entering[0].mean(1) + 2 * entering[1].mean(1)) / 3, atol=1e-6)
    assert torch.allclose(found[3], 3 * (entering[0].var(1) + 2 * entering[1].var(1)) / 3, atol=1e-6)
    assert not net[1]._forward_pre_hooks


def test_statistics_tell_what_a_gradient_does_not():
    """Of the last bias' gradient alone images are found whose statistics are the observed ones."""
    net, images, labels = normalised_net(), unit_images(2), torch.tensor([0, 1])
    poor = last_bias_alone(net)
    rich = with_statistics(poor, (net[1],), 1, scale=0.2)
    attack = InvertingGradients(iterations=40, total_variation_weights=(0.0,))
    with torch.no_grad():
        seen = rich(SPACE.to_input(images), labels)

    found = attack.reconstruct(rich, seen, labels, SPACE)
    without = attack.reconstruct(poor, seen[:1], labels, SPACE)

    def apart(unit_BCHW):
        with torch.no_grad():
            pairs = zip(rich(SPACE.to_input(unit_BCHW), labels)[1:], seen[1:], strict=True)
        return float(sum((one - other).abs().sum() for one, other in pairs))

    assert apart(found.unit_BCHW) < 0.3 * apart(without.unit_BCHW)


def test_a_weight_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="statistics_weight=0 is not accepted"):
        InvertingWithBatchStatistics(statistics_weight=0)
