import pytest
import torch
from gradient_cases import SPACE, small_net, unit_images, victim_of
from torch import nn

from attacks.gradients.batch_norm import WithStatistics, batch_statistics, statistics_of
from attacks.gradients.inverting import InvertingGradients


def normalised_net():
    net = small_net()
    return nn.Sequential(net[0], nn.BatchNorm2d(8, momentum=0.1), *net[1:]).train()


def test_the_statistics_are_those_that_running_ones_move_by():
    """One step of training moves the running mean and variance by m·(batch − running): solved for the batch's."""
    net, images = normalised_net(), unit_images(4)
    norm = net[1]
    with torch.no_grad():
        norm.running_mean.fill_(3.0)
    before = (norm.running_mean.clone(), norm.running_var.clone())
    found = statistics_of(net)(images)
    assert torch.equal(norm.running_mean, before[0])  # asking moves nothing

    net(images)

    seen = batch_statistics(before, (norm.running_mean, norm.running_var), 0.1)
    for one, other in zip(found, seen, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_statistics_of_the_same_batch_over_several_steps():
    net, images = normalised_net(), unit_images(4)
    before = (net[1].running_mean.clone(), net[1].running_var.clone())
    found = statistics_of(net)(images)

    for _ in range(3):
        net(images)

    seen = batch_statistics(before, (net[1].running_mean, net[1].running_var), 0.1, steps=3)
    for one, other in zip(found, seen, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_statistics_are_matched_along_with_the_gradient():
    """Of a gradient that says little (the last bias alone) images are found whose statistics are the observed ones;
    the weight is what the statistics' absolute sum is to the gradient's."""
    net, images, labels = normalised_net(), unit_images(2), torch.tensor([0, 1])
    gradient_of = victim_of(net)
    poor = lambda x, y: gradient_of(x, y)[-1:]  # noqa: E731
    inputs = SPACE.to_input(images)
    with torch.no_grad():
        gradients, statistics = poor(inputs, labels), statistics_of(net)(inputs)
    victim, seen = WithStatistics(gradient_of=poor, statistics_of=statistics_of(net), weight=0.5).joined(
        gradients, statistics
    )
    attack = InvertingGradients(iterations=40, total_variation_weights=(0.0,))

    found = attack.reconstruct(victim, seen, labels, SPACE)
    without = attack.reconstruct(poor, gradients, labels, SPACE)

    sums = [sum(float(t.abs().sum()) for t in tensors) for tensors in (seen[1:], seen[:1])]
    assert sums[0] == pytest.approx(0.5 * sums[1], rel=1e-5)

    def apart(unit_BCHW):
        with torch.no_grad():
            pairs = list(zip(statistics_of(net)(SPACE.to_input(unit_BCHW)), statistics, strict=True))
        return float(sum((one - other).abs().sum() for one, other in pairs))

    assert apart(found.unit_BCHW) < 0.3 * apart(without.unit_BCHW)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="no BatchNorm layer"):
        statistics_of(small_net())
    with pytest.raises(ValueError, match="momentum=0"):
        batch_statistics((), (), 0)
    with pytest.raises(ValueError, match="steps=0"):
        batch_statistics((), (), 0.1, 0)
    with pytest.raises(ValueError, match="weight=0"):
        WithStatistics(gradient_of=victim_of(small_net()), statistics_of=lambda images: (images,), weight=0)
