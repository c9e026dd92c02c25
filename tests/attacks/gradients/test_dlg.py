import dataclasses

import pytest
import torch
from gradient_cases import SPACE, seen_from, small_net, unit_images, victim_of
from torch import nn

from attacks.gradients.dlg import DeepLeakage
from attacks.metrics import psnr_db

ENOUGH = DeepLeakage(classes=5, iterations=8, starts=2, enough_fit=1e-9)


def attacked(attack, labels, seed=0, activation=nn.Sigmoid):
    net, labels, images = small_net(seed=seed, activation=activation), torch.tensor(labels), unit_images(len(labels))
    return attack.reconstruct(victim_of(net), seen_from(net, images, labels), len(labels), SPACE), images


@pytest.mark.parametrize("label", [0, 3])
def test_image_and_label_come_back_together(label):
    """Above 50 dB, of noise; the label is nowhere given."""
    found, images = attacked(ENOUGH, [label])

    assert psnr_db(found.images.unit_BCHW, images, 1.0).min() > 50
    assert found.labels_B.tolist() == [label]
    assert found.shares_BK.sum() == pytest.approx(1, abs=1e-5)
    assert found.images.fit < 1e-6


def test_labels_are_those_that_were_optimised_not_those_of_the_start():
    """The template bug: a peer returns the random labels that a start begins with. Over three true labels from
    one seed the start's label stays the same, so at most one of them could be right."""
    attack = dataclasses.replace(ENOUGH, starts=1, iterations=2)

    found = [int(attacked(attack, [label])[0].labels_B) for label in range(3)]

    assert found == [0, 1, 2]


def test_every_record_has_a_label_of_its_own():
    """The joint label bug: a peer's label variable has no batch axis, so that all records share one label."""
    found, _ = attacked(dataclasses.replace(ENOUGH, starts=1, iterations=6), [1, 3])

    assert found.shares_BK.shape == (2, 5)
    assert sorted(found.labels_B.tolist()) == [1, 3]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_gradient_that_carries_nothing_gives_grey_and_equal_shares(value):
    net = small_net()

    found = ENOUGH.reconstruct(victim_of(net), [torch.full_like(p, value) for p in net.parameters()], 2, SPACE)

    assert torch.equal(found.images.unit_BCHW, torch.full((2, 1, 6, 6), 0.5))
    assert torch.equal(found.shares_BK, torch.full((2, 5), 0.2))
    assert found.images.fit == 1


def test_the_seed_decides_and_the_random_state_stays():
    net, images = small_net(), unit_images(1)
    seen, before = seen_from(net, images, torch.tensor([1])), torch.get_rng_state()

    def rebuilt(seed):
        attack = DeepLeakage(classes=5, iterations=1, inner_iterations=1, starts=1, seed=seed)
        return attack.reconstruct(victim_of(net), seen, 1, SPACE).images.unit_BCHW

    assert torch.equal(rebuilt(0), rebuilt(0))
    assert not torch.equal(rebuilt(0), rebuilt(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", 1), ("iterations", 0), ("inner_iterations", 0), ("history", 0), ("starts", 0), ("enough_fit", 1.0)],
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} is not accepted"):
        DeepLeakage(**{"classes": 3, field: value})
