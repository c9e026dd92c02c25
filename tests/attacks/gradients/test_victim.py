import pytest
import torch
from gradient_cases import seen_from, small_net, unit_images, victim_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.gradients.victim import (
    carries_nothing,
    cosine_distance,
    direction_distance,
    observed,
    of_module,
    squared_distance,
)


@settings(deadline=None, max_examples=10)
@given(records=st.integers(1, 4), classes=st.integers(2, 6), seed=st.integers(0, 99))
def test_the_victims_gradient_is_that_of_plain_backward(records, classes, seed):
    net = small_net(classes, seed)
    labels = torch.arange(records) % classes
    images = unit_images(records, seed)

    found = victim_of(net)(2 * images - 1, labels)

    assert all(torch.equal(one, other) for one, other in zip(found, seen_from(net, images, labels), strict=True))


def test_soft_labels_that_are_certain_give_the_gradient_of_classes():
    net, labels, images = small_net(), torch.tensor([1, 4]), unit_images(2)

    hard, soft = (victim_of(net)(images, given) for given in (labels, nn.functional.one_hot(labels, 5).float()))

    for one, other in zip(hard, soft, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_gradients_can_be_differentiated_only_where_asked_for():
    images = unit_images(1).requires_grad_()
    gradient_of = victim_of(small_net())

    assert gradient_of(images, torch.tensor([0]))[0].requires_grad
    with torch.no_grad():
        assert not gradient_of(images, torch.tensor([0]))[0].requires_grad


def test_running_the_victim_leaves_no_trace():
    """Batch normalisation in training mode would move its statistics; dropout would draw; training would go on."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 5)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    gradient_of, images, labels = victim_of(net), unit_images(3), torch.tensor([0, 1, 2])

    first = gradient_of(images, labels)
    with torch.no_grad():
        net[0].weight.zero_()
    second = gradient_of(images, labels)

    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before if name != "0.weight")
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("soft", [False, True])
def test_a_victim_of_64_bits_takes_images_and_labels_of_32(soft):
    """What it gives is the gradient of the module in 64 bits, far nearer to it than one of 32 bits is."""
    net, images, labels = small_net(), unit_images(2), torch.tensor([0, 3])
    given = nn.functional.one_hot(labels, 5).float() if soft else labels

    found = of_module(net, cross_entropy, torch.float64)(images, given)

    cross_entropy(net.double()(images.double()), labels).backward()
    for one, parameter in zip(found, net.parameters(), strict=True):
        assert one.dtype == torch.float64
        assert torch.allclose(one, parameter.grad, rtol=1e-12, atol=1e-14)


class Counting(nn.Module):
    """Its answer grows with every call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.calls * images @ self.weight


def test_every_call_starts_from_the_same_buffers():
    gradient_of, images, labels = of_module(Counting(), cross_entropy), torch.tensor([[2.0]]), torch.tensor([1])

    first, second = gradient_of(images, labels), gradient_of(images, labels)

    assert torch.equal(first[0], second[0])


def test_frozen_parameters_give_no_gradient_and_unused_ones_give_zero():
    class Used(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(2, 2, bias=False)
            self.used.bias.requires_grad_(False)

        def forward(self, images):
            return self.used(images)

    found = of_module(Used(), cross_entropy)(torch.ones(1, 4), torch.tensor([0]))

    assert [tuple(tensor.shape) for tensor in found] == [(3, 4), (2, 2)]
    assert found[0].any()
    assert not found[1].any()


def test_a_victim_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        of_module(nn.Linear(2, 2).requires_grad_(False), cross_entropy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_widened(dtype):
    """The gradient is that of the widened weights in 32 bits: no tensor of 16 bits takes part."""
    net = small_net().to(dtype)
    images, labels = unit_images(2), torch.tensor([0, 1])

    found = victim_of(net)(images, labels)
    straight = victim_of(small_net_from(net))(images, labels)

    assert all(tensor.dtype == torch.float32 for tensor in found)
    assert all(torch.equal(one, other) for one, other in zip(found, straight, strict=True))
    assert observed([torch.ones(2, dtype=dtype)])[0].dtype == torch.float32


def small_net_from(net: nn.Module) -> nn.Module:
    wide = small_net()
    wide.load_state_dict({name: tensor.float() for name, tensor in net.state_dict().items()})
    return wide


def test_distances_by_hand():
    """g = (3, 4 | 0) and g* = (0, 0 | 2): orthogonal, so the cosine distance is 1; ‖g − g*‖² / ‖g*‖² = 29 / 4; of unit
    length they differ by |0.6| + |0.8| + |−1| = 2.4, against 1 for g* alone. Against 10·g*: the same but the square."""
    one, other = [torch.tensor([3.0, 4.0]), torch.tensor([0.0])], [torch.zeros(2), torch.tensor([2.0])]
    far = [10 * tensor for tensor in other]

    assert float(cosine_distance(one, other)) == pytest.approx(1)
    assert float(squared_distance(one, other)) == pytest.approx(29 / 4)
    assert float(direction_distance(one, other)) == pytest.approx(2.4)
    assert float(direction_distance(one, far)) == pytest.approx(2.4)
    assert float(direction_distance(far, other)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(far, other)) == pytest.approx(0, abs=1e-6)
    assert float(squared_distance(far, other)) == pytest.approx(81)


def test_what_carries_nothing():
    assert carries_nothing([torch.zeros(2), torch.zeros(1)])
    assert carries_nothing([torch.ones(2), torch.tensor([float("nan")])])
    assert not carries_nothing([torch.zeros(2), torch.ones(1)])
