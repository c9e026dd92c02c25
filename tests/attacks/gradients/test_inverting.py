import dataclasses

import pytest
import torch
from gradient_cases import SPACE, seen_from, small_net, unit_images, victim_of
from torch import nn

from attacks.gradients.inverting import Distance, InvertingGradients, total_variation
from attacks.gradients.victim import direction_distance
from attacks.images import ImageSpace
from attacks.metrics import psnr_db

ENOUGH = InvertingGradients(iterations=100, total_variation_weights=(0.001,))


def attacked(attack, labels, seed=0, net=None):
    net, labels, images = net or small_net(), torch.tensor(labels), unit_images(len(labels), seed)
    found = attack.reconstruct(victim_of(net), seen_from(net, images, labels), labels, SPACE)
    return found, images


@pytest.mark.parametrize(("seed", "scale"), [(0, 1e-4), (1, 1.0), (2, 1e4)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_a_single_image_comes_back_whatever_the_scale_of_its_gradient(seed, scale, activation):
    """The gradient of 8 filters on 36 pixels says more than enough of one image: above 45 dB, of
    noise, which no prior brings. Only the gradient's direction is used."""
    net, labels, images = small_net(seed=seed, activation=activation), torch.tensor([2]), unit_images(1, seed)
    seen = [scale * tensor for tensor in seen_from(net, images, labels)]

    found = ENOUGH.reconstruct(victim_of(net), seen, labels, SPACE)

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 45
    assert found.fit < 0.02
    assert found.iterations == 100


def test_absolute_distances_come_nearer_than_the_published_ones_with_rectifiers():
    """A rectifier makes the gradient jump; the same steps with squares end at least 6 dB further away."""
    published = dataclasses.replace(ENOUGH, distance=Distance.COSINE, signed=True)

    ours, theirs = (psnr_db(*attacked_pair(attack), 1.0).mean() for attack in (ENOUGH, published))

    assert ours > theirs + 6


def attacked_pair(attack):
    found, images = attacked(attack, [2])
    return found.unit_BCHW, images


@pytest.mark.parametrize("distance", ["absolute", "cosine"])
def test_the_fit_is_that_of_the_returned_images(distance):
    """It is the declared distance at those images."""
    attack = dataclasses.replace(ENOUGH, distance=distance, iterations=10)
    net, labels, images = small_net(), torch.tensor([1]), unit_images(1)
    seen = seen_from(net, images, labels)

    found = attack.reconstruct(victim_of(net), seen, labels, SPACE)

    again = seen_from(net, found.unit_BCHW, labels)
    one, other = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (again, seen))
    one, other = one / one.norm(), other / other.norm()
    expected = 1 - one @ other if distance == "cosine" else (one - other).abs().sum() / other.abs().sum()
    assert found.fit == pytest.approx(float(expected), rel=1e-4)


def test_images_stay_in_the_box_and_the_random_state_stays():
    net = small_net()
    before = torch.get_rng_state()

    found, _ = attacked(dataclasses.replace(ENOUGH, iterations=8, learning_rate=5.0, starts=2), [0, 3], net=net)

    assert found.unit_BCHW.min() == 0
    assert found.unit_BCHW.max() == 1
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_decides_the_starts():
    def rebuilt(seed):
        return attacked(dataclasses.replace(ENOUGH, iterations=3, seed=seed), [0])[0].unit_BCHW

    assert torch.equal(rebuilt(0), rebuilt(0))
    assert not torch.equal(rebuilt(0), rebuilt(1))


def test_of_several_starts_the_best_fit_is_returned():
    """Images of one class are mixed, by some starts more than by others. With one step, all starts take it, and the
    best of four has the least fit of the four starts that seeds draw one after the other."""
    attack = dataclasses.replace(ENOUGH, iterations=1)
    draw = torch.Generator().manual_seed(0)
    net, labels, images = small_net(), torch.tensor([2, 2]), unit_images(2)
    victim, seen = victim_of(net), seen_from(net, images, labels)
    starts = [SPACE.random(2, draw) for _ in range(4)]
    with torch.no_grad():
        fits = [float(direction_distance(victim(SPACE.to_input(start), labels), seen)) for start in starts]

    found = dataclasses.replace(attack, starts=4).reconstruct(victim, seen, labels, SPACE)

    assert found.fit == pytest.approx(min(fits), rel=1e-5)
    assert min(fits) < fits[0]


def test_records_change_places_between_steps_where_that_explains_more():
    """A victim of two steps that gives the second step's gradient twice the weight: from labels in the wrong steps, the
    images are found only if records may change places; within a step nothing changes places."""
    images, labels, gradient_of = unit_images(2), torch.tensor([0, 3]), victim_of(small_net())

    def two_steps(inputs, classes):
        parts = [gradient_of(inputs[k : k + 1], classes[k : k + 1]) for k in (0, 1)]
        return tuple(one + 2 * other for one, other in zip(*parts, strict=True))

    with torch.no_grad():
        seen = two_steps(SPACE.to_input(images), labels)
    attack = InvertingGradients(iterations=60, total_variation_weights=(0.001,))
    found = {sizes: attack.reconstruct(two_steps, seen, labels.flip(0), SPACE, sizes=sizes) for sizes in ((1, 1), (2,))}

    assert psnr_db(found[1, 1].unit_BCHW, images, 1.0).min() > 30
    assert psnr_db(found[2,].unit_BCHW, images, 1.0).mean() < 20
    assert labels.tolist() == [0, 3]


def test_it_stops_when_the_fit_is_enough():
    found, _ = attacked(dataclasses.replace(ENOUGH, enough_fit=0.2), [2])

    assert found.iterations < 100
    assert found.fit <= 0.2


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_gradient_that_carries_nothing_gives_grey(value):
    net = small_net()
    seen = [torch.full_like(parameter, value) for parameter in net.parameters()]

    found = ENOUGH.reconstruct(victim_of(net), seen, torch.tensor([0, 1]), SPACE)

    assert torch.equal(found.unit_BCHW, torch.full((2, 1, 6, 6), 0.5))
    assert (found.fit, found.iterations) == (1.0, 0)


@pytest.mark.parametrize("weights", [(10.0, 0.001), (0.001, 10.0)])
def test_the_weight_chosen_is_the_one_that_brings_auxiliary_images_back_best(weights):
    """Noise is far from smooth, so a heavy prior does harm, in whichever place it stands. The other settings stay."""
    attack = dataclasses.replace(ENOUGH, total_variation_weights=weights, tuning_iterations=10)
    victim, labels = victim_of(small_net()), torch.tensor([1, 1])
    told = []

    tuned = attack.tuned(victim, unit_images(3), labels, SPACE, told.append)

    assert tuned == dataclasses.replace(attack, total_variation_weights=(0.001,))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


@pytest.mark.parametrize("auxiliary", [None, unit_images(1)])
def test_without_enough_auxiliary_images_the_first_weight_is_taken(auxiliary):
    attack = dataclasses.replace(ENOUGH, total_variation_weights=(7.0, 0.001))

    tuned = attack.tuned(victim_of(small_net()), auxiliary, torch.tensor([0, 1]), SPACE)

    assert tuned.total_variation_weights == (7.0,)


def test_total_variation_by_hand():
    """Columns 0, 1, 0 in both rows: down all 0; across |1| + |−1| over 2 steps, so 1. One row has nothing below it."""
    image = torch.tensor([[0.0, 1.0, 0.0]] * 2)[None, None]

    assert float(total_variation(image)) == pytest.approx(1)
    assert float(total_variation(image.transpose(2, 3))) == pytest.approx(1)
    assert float(total_variation(image[:, :, :1])) == pytest.approx(1)


def test_gradients_of_16_bits_are_attacked_in_32():
    net, labels, images = small_net(), torch.tensor([2]), unit_images(1)
    seen = [tensor.half() for tensor in seen_from(net, images, labels)]

    found = ENOUGH.reconstruct(victim_of(net), seen, labels, SPACE)

    assert found.unit_BCHW.dtype == torch.float32
    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 30


def test_the_box_of_the_model_input_is_the_spaces():
    """The same victim sees pixels from 3 to 5: the unit images that come back are the same."""
    space = ImageSpace(shape_CHW=(1, 6, 6), low=(3.0,), high=(5.0,))
    net, labels, images = small_net(), torch.tensor([2]), unit_images(1)

    found = ENOUGH.reconstruct(victim_of(net), seen_from(net, images, labels, space), labels, space)

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 25


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0), ("starts", 0), ("exchanges", -1), ("tuning_iterations", 0), ("learning_rate", 0.0),
        ("learning_rate", float("nan")), ("total_variation_weights", ()), ("total_variation_weights", (-1.0,)),
        ("total_variation_weights", (float("nan"),)), ("enough_fit", 1.0),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}=.* is not accepted"):
        InvertingGradients(**{field: value})


def test_the_budget_is_stated():
    assert InvertingGradients(iterations=100, starts=5).budget == "at most 201 iterations over 5 starts"
