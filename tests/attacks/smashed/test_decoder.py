import dataclasses

import pytest
import torch
from smashed_cases import noise_images, orthogonal_1x1
from torch import nn

from attacks.images import ImageSpace
from attacks.metrics import psnr_db
from attacks.smashed.decoder import Decoder
from attacks.smashed.networks import InverseNetwork, as_map, batches, drawn_weights, mirrored, seeded
from attacks.smashed.victim import forward_of
from lightning_sfl.link.codecs import Chain, Draw, Form, NearestUniform

SPACE = ImageSpace(shape_CHW=(3, 8, 8), low=(-1.0,), high=(1.0,))
SMALL = Decoder(steps=30, batch=20, width=8, learning_rate=5e-3, linear_places=2000)


def smooth_images(records: int, seed: int = 0):
    """Colours that vary slowly: 2x2 noise enlarged."""
    return nn.functional.interpolate(noise_images(records, 3, 2, seed), size=(8, 8), mode="bilinear")


def learned(query, attack=SMALL, auxiliary=None):
    return attack.trained(smooth_images(100) if auxiliary is None else auxiliary, query, SPACE)


def test_what_is_learned_on_other_images_rebuilds_unseen_ones():
    """Grey is about 13 dB from images whose pixels vary by 0.2; a rotation of colours can be undone by a network."""
    front, images = forward_of(orthogonal_1x1(3)), smooth_images(4, seed=9)

    found = learned(front).reconstruct(front(SPACE.to_input(images)), 4)

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 22
    assert found.fit < 0.1
    assert found.iterations == 30


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_clients_weights_does_not_matter(scale):
    front = orthogonal_1x1(3)
    images = smooth_images(2, seed=9)
    plain = learned(forward_of(front)).reconstruct(forward_of(front)(SPACE.to_input(images)), 2)
    front.weight.data *= scale

    scaled = learned(forward_of(front)).reconstruct(forward_of(front)(SPACE.to_input(images)), 2)

    assert scaled.unit_BCHW == pytest.approx(plain.unit_BCHW, abs=0.02)


def test_every_query_goes_through_what_is_sent_and_what_is_asked_for_is_counted():
    """The decoder never sees what did not cross: with a 1-bit codec, its input has two values in every query."""
    asked: list[int] = []
    codec = Chain.of((NearestUniform(bits=1),))

    def query(seen):
        asked.append(len(seen))
        parts = codec.encode(seen, Draw(0, "test"))
        decoded = codec.decode(parts, Form.of(seen))
        assert decoded.unique().numel() <= 2
        return (decoded,)

    attack = Decoder(steps=7, batch=10, width=4)

    attack.trained(smooth_images(30), query, SPACE)

    assert asked == [10] * (1 + 3 + 7)  # mean and spread; the linear part, from all 30; the steps
    assert "80 queries" in attack.budget


def test_flat_smashed_data_begin_with_a_dense_layer():
    front = nn.Sequential(nn.Flatten(), nn.Linear(192, 192, bias=False)).requires_grad_(False)
    front[1].weight.data = torch.eye(192)
    images = smooth_images(3, seed=9)

    found = learned(forward_of(front), dataclasses.replace(SMALL, steps=60, width=32)).reconstruct(
        forward_of(front)(SPACE.to_input(images)), 3
    )

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 17


def test_what_is_linear_is_learned_without_a_step():
    """Each pixel is a rotation of its own colours: one 3x3 neighbourhood tells it, up to the ridge of 1e-3.

    A ridge of ρ of the mean variance shrinks a direction of variance v·mean by ρ/(v + ρ); colours here have v near 1.
    """
    front, images = forward_of(orthogonal_1x1(3)), noise_images(4, seed=9)

    trained = learned(front, Decoder(steps=1, batch=50, width=2, learning_rate=1e-9), noise_images(100))

    assert psnr_db(trained.reconstruct(front(SPACE.to_input(images)), 4).unit_BCHW, images, 1.0).min() > 40


@pytest.mark.parametrize(("size", "ratio"), [(8, 1), (4, 2), (1, 8), (3, 0)])
def test_the_linear_part_is_there_where_pixels_come_out_even(size, ratio):
    assert InverseNetwork(noise_images(5, 6, size), SPACE, 4).ratio == ratio


@pytest.mark.parametrize(("size", "doublings"), [(8, 0), (4, 1), (2, 2), (1, 3), (3, 1)])
def test_one_transposed_convolution_for_every_halving(size, doublings):
    network = InverseNetwork(noise_images(5, 6, size), SPACE, 4)

    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in network.layers) == doublings
    assert network(noise_images(5, 6, size)).shape == (5, 3, 8, 8)


def test_several_crossing_tensors_become_one_where_they_fit_together():
    assert as_map((noise_images(2, 3), noise_images(2, 5)), 2).shape == (2, 8, 8, 8)
    assert as_map((torch.ones(2, 3), torch.ones(2, 4, 5)), 2).shape == (2, 23)


@pytest.mark.parametrize(
    "smashed",
    [
        (noise_images(2, 3, 8), noise_images(2, 3, 4)),
        (noise_images(2, 3, 8), torch.ones(2, 5)),
        (torch.ones(2, 5), noise_images(2, 3, 8)),
        (torch.ones(3, 5),),
        (torch.tensor(1.0),),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_shapes(smashed):
    with pytest.raises(ValueError, match=r"Smashed data of shapes .*\(") as error:
        as_map(smashed, 2)

    assert all(str(tuple(tensor.shape)) in str(error.value) for tensor in smashed)


def test_the_seed_decides_everything_and_the_random_state_stays():
    front, before = forward_of(orthogonal_1x1(3)), torch.get_rng_state()
    target = front(SPACE.to_input(smooth_images(1)))

    one, again, other = (
        learned(front, Decoder(steps=3, batch=5, width=4, seed=seed)).reconstruct(target, 1).unit_BCHW
        for seed in (0, 0, 1)
    )

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_mirrored_left_to_right_or_left_alone():
    images = noise_images(40)

    found = mirrored(images, torch.Generator().manual_seed(0))

    turned = [torch.equal(one, image.flip(-1)) for one, image in zip(found, images, strict=True)]
    assert all(turn or torch.equal(one, image) for turn, one, image in zip(turned, found, images, strict=True))
    assert 8 < sum(turned) < 32


def test_batches_go_through_all_before_any_comes_again():
    order = batches(7, 3, torch.Generator().manual_seed(0))

    assert len({int(place) for _ in range(2) for place in next(order)}) == 6
    assert len(next(batches(2, 3, torch.Generator().manual_seed(0)))) == 2


def test_drawn_weights_follow_each_layers_rule_and_the_seed_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    before = torch.get_rng_state()

    drawn, again = drawn_weights(module, 5), drawn_weights(module, 5)
    with seeded(5):
        torch.randn(1)

    assert drawn.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(again[name], weight) for name, weight in drawn.items())
    assert not torch.equal(drawn["0.weight"], module[0].weight)
    assert torch.equal(drawn["1.weight"], torch.ones(4))
    assert drawn["0.weight"].abs().max() <= 1 / 27**0.5  # uniform within ±1/√(fan in)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_message_that_carries_nothing_leaves_grey_and_a_victim_that_sends_nothing_is_refused(value):
    front = forward_of(orthogonal_1x1(3))
    attack = Decoder(steps=1, batch=2, width=2)

    found = learned(front, attack).reconstruct((torch.full((2, 3, 8, 8), value),), 2)

    assert torch.equal(found.unit_BCHW, torch.full((2, 3, 8, 8), 0.5))
    assert found.fit == 1
    with pytest.raises(ValueError, match="sends nothing"):
        learned(lambda seen: (torch.full_like(seen, value),), attack)


def test_without_auxiliary_images_there_is_nothing_to_learn():
    with pytest.raises(ValueError, match="auxiliary_BCHW of 0 images"):
        learned(forward_of(orthogonal_1x1(3)), auxiliary=noise_images(0))


@pytest.mark.parametrize(
    ("argument", "value"), [("steps", 0), ("batch", 0), ("width", 0), ("linear_places", 0), ("learning_rate", -1.0)]
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        Decoder(**{argument: value})
