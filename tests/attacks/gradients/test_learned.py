import pytest
import torch
from gradient_cases import SPACE, seen_from, small_net, unit_images, victim_of

from attacks.gradients.learned import LearningToInvert

QUICK = LearningToInvert(features=256, width=64, iterations=150, batch=32, learning_rate=3e-3)


def stripes(count, seed):
    """Images of one row of 6 levels repeated downwards: 6 numbers each, which a small network can learn to read off."""
    rows = torch.rand((count, 1, 1, 6), generator=torch.Generator().manual_seed(seed))
    return rows.expand(count, 1, 6, 6).contiguous()


def signs(gradients):
    return tuple(tensor.sign() for tensor in gradients)


@pytest.mark.parametrize("defence", [None, signs])
def test_held_out_images_come_nearer_than_the_mean_image(defence):
    """The mean image leaves the variance 1/12; at most half of it is left, with a gradient whole or its signs alone."""
    net, images = small_net(), stripes(120, 0)
    labels, extra = torch.arange(120) % 5, {} if defence is None else {"defence": defence}
    before = torch.get_rng_state()

    inverter = QUICK.fit(victim_of(net), images, labels, SPACE, **extra)

    assert torch.equal(before, torch.get_rng_state())
    held_out, error = stripes(10, 1), 0.0
    for image, label in zip(held_out, labels, strict=False):
        seen = seen_from(net, image[None], label[None])
        found = inverter.reconstruct(seen if defence is None else defence(seen))
        assert found.unit_BCHW.shape == (1, 1, 6, 6)
        error += float((found.unit_BCHW[0] - image).square().mean()) / 10
    assert error < 0.5 / 12
    assert 0 < inverter.fit < 0.5


def test_the_seed_decides():
    def rebuilt(seed):
        attack = LearningToInvert(features=16, width=8, iterations=2, seed=seed)
        inverter = attack.fit(victim_of(small_net()), stripes(4, 0), torch.arange(4), SPACE)
        return inverter.reconstruct(seen_from(small_net(), stripes(1, 5), torch.tensor([0]))).unit_BCHW

    assert torch.equal(rebuilt(0), rebuilt(0))
    assert not torch.equal(rebuilt(0), rebuilt(1))


def test_a_gradient_that_carries_nothing_gives_grey():
    attack = LearningToInvert(features=16, width=8, iterations=2)
    inverter = attack.fit(victim_of(small_net()), stripes(4, 0), torch.arange(4), SPACE)

    found = inverter.reconstruct(tuple(torch.zeros_like(p) for p in small_net().parameters()))

    assert torch.equal(found.unit_BCHW, torch.full((1, 1, 6, 6), 0.5))
    assert found.fit == 1


@pytest.mark.parametrize(("images", "labels"), [(1, 1), (3, 2)])
def test_too_few_auxiliary_images_are_refused(images, labels):
    with pytest.raises(ValueError, match=f"auxiliary_BCHW of {images} images with {labels} labels"):
        QUICK.fit(victim_of(small_net()), unit_images(images), torch.zeros(labels, dtype=torch.int64), SPACE)


@pytest.mark.parametrize(
    ("field", "value"), [("features", 0), ("width", 0), ("iterations", 0), ("batch", 0), ("learning_rate", 0.0)]
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} is not accepted"):
        LearningToInvert(**{field: value})
