import dataclasses

import pytest
import torch
from smashed_cases import noise_images, orthogonal_1x1
from torch import nn

from attacks.images import ImageSpace
from attacks.smashed.networks import drawn_weights
from attacks.smashed.unsplit import UnSplit
from attacks.smashed.victim import program_of

SPACE = ImageSpace(shape_CHW=(3, 8, 8), low=(-1.0,), high=(1.0,))
BRIEF = UnSplit(rounds=2, image_steps=3, weight_steps=3)


def half() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def attacked(target, attack=BRIEF, drawn=None):
    return attack.reconstruct(target, program_of(half()), drawn or drawn_weights(half(), 1), SPACE, len(target[0]))


def test_what_was_sent_is_only_read():
    """UnSplit's published code sends gradients into the victim: its target is not detached."""
    victim = half()
    target = victim(noise_images(2))
    assert target.requires_grad

    attacked((target,))

    assert all(parameter.grad is None for parameter in victim.parameters())


def test_every_message_has_a_clone_of_its_own():
    """UnSplit's published code carries the clone over: what is found of an image then depends on those before it."""
    one, other = ((half()(noise_images(2, seed=seed)).detach(),) for seed in (0, 1))
    drawn = drawn_weights(half(), 1)
    before = {name: weight.clone() for name, weight in drawn.items()}

    alone = attacked(one, drawn=drawn)
    attacked(other, drawn=drawn)
    after = attacked(one, drawn=drawn)

    assert torch.equal(alone.unit_BCHW, after.unit_BCHW)
    assert all(torch.equal(before[name], weight) for name, weight in drawn.items())


def test_pictures_are_not_stretched_to_the_full_range():
    """UnSplit's published code rescales every picture from its least to its largest value before it is scored.

    Six steps of at most 1e-3 from grey reach no further than 6e-3, stretched they would reach 0 and 1.
    """
    found = attacked((half()(noise_images(2)).detach(),))

    assert 0 < (found.unit_BCHW - 0.5).abs().max() <= 6.1e-3


def test_images_and_clone_come_to_explain_what_was_sent():
    """With a clone that begins at the victim's own weights and no priors, the images themselves come back."""
    front, images = orthogonal_1x1(3), 0.25 + 0.5 * noise_images(2)
    target = (front(SPACE.to_input(images)),)
    attack = UnSplit(rounds=3, image_steps=40, weight_steps=1, learning_rate=0.02, prior_weight=0.0, energy_weight=0.0)

    found = attack.reconstruct(target, program_of(front), {"weight": front.weight.detach()}, SPACE, 2)

    assert found.fit < 1e-3
    assert found.unit_BCHW == pytest.approx(images, abs=0.05)
    assert found.iterations == 123


def test_both_priors_pull():
    target = (half()(SPACE.to_input(noise_images(2))).detach(),)

    def found(**weights):
        attack = UnSplit(rounds=2, image_steps=20, weight_steps=1, learning_rate=0.05, **weights)
        return attacked(target, attack).unit_BCHW

    plain = found(prior_weight=0.0, energy_weight=0.0)
    assert found(prior_weight=50.0, energy_weight=0.0).std() < 0.5 * plain.std()
    assert (
        SPACE.to_input(found(prior_weight=0.0, energy_weight=50.0)).square().mean()
        < 0.5 * SPACE.to_input(plain).square().mean()
    )


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_smashed_data_that_carry_nothing_leave_grey_and_no_fit(value):
    found = attacked((torch.full((2, 4, 6, 6), value),))

    assert torch.equal(found.unit_BCHW, torch.full((2, 3, 8, 8), 0.5))
    assert found.fit == 1


def test_progress_rises_to_the_end_and_the_budget_is_told():
    told: list[float] = []
    target = (half()(noise_images(1)).detach(),)

    BRIEF.reconstruct(target, program_of(half()), drawn_weights(half(), 1), SPACE, 1, told.append)

    assert told == [0.5, 1]
    assert dataclasses.replace(BRIEF, rounds=9).budget == "9 rounds of 3 + 3 steps per message"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rounds", 0),
        ("image_steps", 0),
        ("weight_steps", 0),
        ("learning_rate", 0.0),
        ("prior_weight", -1.0),
        ("energy_weight", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        UnSplit(**{argument: value})
