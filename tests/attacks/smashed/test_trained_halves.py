"""Attacks that train a half of their own: the shadow, and SDAR."""

import dataclasses

import pytest
import torch
from smashed_cases import noise_images
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.images import ImageSpace
from attacks.metrics import psnr_db
from attacks.smashed.distance import relative_distance
from attacks.smashed.networks import drawn_weights, seeded
from attacks.smashed.sdar import Critic, Sdar
from attacks.smashed.shadow import Shadow
from attacks.smashed.victim import forward_of, program_of, server_loss_of
from attacks.smashed.white_box import FAITHFUL, SMOOTH, WhiteBox

SPACE = ImageSpace(shape_CHW=(3, 4, 4))
SHADOW = Shadow(
    steps=100, batch=32, learning_rate=0.02, inversion=WhiteBox(iterations=60, candidates=(SMOOTH, FAITHFUL))
)
SDAR = Sdar(steps=60, batch=32, learning_rate=0.03, width=8)


def colours(records: int, seed: int = 0):
    """Plain pictures whose strongest channel is their label."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (records,), generator=draw)
    pixels = 0.2 + 0.1 * torch.rand(records, 3, 4, 4, generator=draw)
    pixels[range(records), labels] += 0.5
    return pixels, labels


def client() -> nn.Conv2d:
    with seeded(0):
        front = nn.Conv2d(3, 3, 1, bias=False).requires_grad_(False)
    front.weight.data = torch.eye(3)[:, :, None, None].contiguous()
    return front


def server() -> nn.Sequential:
    """Takes the mean of each channel for its logit, times 10."""
    with seeded(0):
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False)).requires_grad_(False)
    head[2].weight.data = 10 * torch.eye(3)
    return head


def given(seed: int = 1):
    """Program, drawn weights, server's loss, space."""
    return program_of(client()), drawn_weights(client(), seed), server_loss_of(server(), cross_entropy), SPACE


def seen(labelled: bool = True):
    messages = [colours(16, seed) for seed in range(10, 14)]
    return [((client()(images),), labels if labelled else None) for images, labels in messages]


def test_a_shadow_is_what_the_servers_half_classifies():
    """The drawn shadow mixes colours anyhow; the server's half takes channel c for label c, so the trained one keeps

    each channel strongest for its own label: it finds the diagonal of the victim's 1x1 convolution.
    """
    program, drawn, loss, space = given()
    images, labels = colours(200)

    shadow = SHADOW.trained(images, labels, program, drawn, loss, space)

    assert loss(shadow.forward(images), labels) < 0.25 * loss(program(drawn, images), labels)
    fresh, fresh_labels = colours(50, 5)
    assert torch.equal(shadow.forward(fresh)[0].mean((2, 3)).argmax(1), fresh_labels)


def test_what_the_client_sent_is_inverted_as_if_the_shadow_had_sent_it():
    program, _, loss, space = given()
    exact = {"weight": client().weight.detach()}
    images, labels = colours(40)
    attack = dataclasses.replace(SHADOW, steps=1, learning_rate=1e-9)  # a shadow that is the victim
    secret, _ = colours(4, 9)

    made = attack.trained(images, labels, program, exact, loss, space).tuned(4)
    found = made.reconstruct(forward_of(client())(secret), 4)

    assert made.inversion.candidates == (FAITHFUL,)  # chosen on auxiliary images: nothing is lost here
    assert psnr_db(found.unit_BCHW, secret, 1.0).min() > 40


@pytest.mark.slow
def test_what_clients_sent_brings_the_simulator_nearer_to_them():
    """Without a query. The server's loss alone is as happy with a simulator that takes the other channels away from
    each channel; the critic asks for what clients send, which has nothing below 0."""
    images, labels = colours(100)
    secret, _ = colours(8, 9)

    def distance(feature_weight):
        attack = dataclasses.replace(SDAR, feature_weight=feature_weight, steps=40, image_weight=0.0)
        made = attack.trained(seen(), images, labels, *given())
        return float(relative_distance(made.program(made.simulator, secret), forward_of(client())(secret)))

    assert distance(1.0) < 0.6 * distance(0.0)


def test_sdar_learns_without_the_clients_labels():
    images, labels = colours(50)

    made = dataclasses.replace(SDAR, steps=3).trained(seen(labelled=False), images, labels, *given())

    assert made.reconstruct(forward_of(client())(images[:2]), 2).unit_BCHW.shape == (2, 3, 4, 4)


def test_critics_know_labels_only_where_the_server_does():
    torch.manual_seed(0)
    maps, labels = noise_images(4, 5), torch.tensor([0, 1, 2, 0])
    aware, blind = Critic(5, 3, 4), Critic(5, 0, 4)

    assert not torch.equal(aware(maps, labels), aware(maps, labels.roll(1)))
    assert torch.equal(blind(maps, None), blind(maps, labels))
    assert Critic(6, 3, 4)(torch.rand(4, 6), labels).shape == (4, 1)


def test_every_message_that_carries_something_is_learned_from():
    """A critic that is shown dead messages would learn that zeros are real; the rest of the run is the same."""
    images, labels = colours(50)
    attack = dataclasses.replace(SDAR, steps=5)
    dead = [((torch.zeros(16, 3, 4, 4),), torch.zeros(16, dtype=torch.int64))]

    plain, with_dead = (attack.trained(messages, images, labels, *given()) for messages in (seen(), dead + seen()))

    assert all(torch.equal(plain.simulator[name], with_dead.simulator[name]) for name in plain.simulator)


@pytest.mark.parametrize("train", [SHADOW, SDAR])
def test_the_seed_decides_everything_and_nothing_handed_over_is_changed(train):
    images, labels = colours(50)
    program, drawn, loss, space = given()
    before, weights = torch.get_rng_state(), {name: weight.clone() for name, weight in drawn.items()}
    target = forward_of(client())(images[:2])

    def rebuilt(seed):
        attack = dataclasses.replace(train, steps=3, seed=seed)
        handed = (images, labels, program, drawn, loss, space)
        made = attack.trained(*handed) if isinstance(attack, Shadow) else attack.trained(seen(), *handed)
        return made.reconstruct(target, 2).unit_BCHW

    assert torch.equal(rebuilt(0), rebuilt(0))
    assert not torch.equal(rebuilt(0), rebuilt(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], weight) for name, weight in drawn.items())


def test_messages_that_cannot_be_learned_from_are_refused():
    images, labels = colours(5)
    half_labelled = [*seen()[:1], *seen(labelled=False)[1:]]

    with pytest.raises(ValueError, match="4 usable messages, 1 with labels"):
        SDAR.trained(half_labelled, images, labels, *given())
    with pytest.raises(ValueError, match="0 usable messages"):
        SDAR.trained([((torch.zeros(2, 3, 4, 4),), None)], images, labels, *given())
    for train in (SHADOW.trained, lambda *handed: SDAR.trained(seen(), *handed)):
        with pytest.raises(ValueError, match="5 images with 4 labels"):
            train(images, labels[:4], *given())
        with pytest.raises(ValueError, match="0 images with 0 labels"):
            train(images[:0], labels[:0], *given())


def test_a_message_that_carries_nothing_leaves_grey_and_no_fit():
    images, labels = colours(5)
    made = dataclasses.replace(SDAR, steps=1).trained(seen(), images, labels, *given())

    found = made.reconstruct((torch.zeros(2, 3, 4, 4),), 2)

    assert torch.equal(found.unit_BCHW, torch.full((2, 3, 4, 4), 0.5))
    assert found.fit == 1


@pytest.mark.parametrize(
    ("attack", "argument", "value"),
    [
        (Shadow, "steps", 0),
        (Shadow, "batch", 0),
        (Shadow, "learning_rate", 0.0),
        (Sdar, "steps", 0),
        (Sdar, "batch", 0),
        (Sdar, "width", 0),
        (Sdar, "learning_rate", float("nan")),
        (Sdar, "feature_weight", -1.0),
        (Sdar, "image_weight", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(attack, argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        attack(**{argument: value})
