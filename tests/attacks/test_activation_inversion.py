import copy
import dataclasses
import itertools

import pytest
import torch
from attack_cases import (
    PoisonedLog,
    TwoHalves,
    attackers_half,
    noise_images,
    observed,
    orthogonal_1x1,
    orthogonal_3x3,
    orthogonal_linear,
    two_halves,
    weights_of,
)
from torch import Tensor, nn

from attacks.activation_inversion import ActivationInversion, part_of, total_variation
from attacks.client_half import ClientHalf, relative_distance
from attacks.metrics import psnr_db
from attacks.observation import last_observations
from attacks.threat import AttackerView
from lightning_sfl.cut.find import search
from lightning_sfl.link.message import MessageKind

ENOUGH = ActivationInversion(iterations=200, total_variation_weights=(0.001,))


def invertible_3x3() -> nn.Conv2d:
    """The identity, disturbed a little: diagonally dominant, so it has an inverse."""
    convolution = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
    noise = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    convolution.weight.data = 0.03 * noise
    convolution.weight.data[range(3), range(3), 1, 1] += 1
    return convolution


INVERTIBLE = {
    "orthogonal 1x1 convolution": (lambda: orthogonal_1x1(3), noise_images(4)),
    "orthogonal 3x3 convolution": (lambda: orthogonal_3x3(3), noise_images(4)),
    "invertible 3x3 convolution with bias": (invertible_3x3, noise_images(4)),
    "orthogonal linear map": (lambda: orthogonal_linear(64), noise_images(4, channels=1)),
}


class Squared(nn.Module):
    """(x − 1/2)²: flat at mid-range, where the first start begins; x and 1 − x give the same."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.centre).square()


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_recovers_the_input_of_an_invertible_front_at_any_scale_of_its_weights(name, scale):
    """Nothing is lost on the way, so all of it can be had back. The target is PSNR > 60 dB: error below 1e-6."""
    make, images = INVERTIBLE[name]
    front, scaled = make(), make()
    for parameter in scaled.parameters():
        parameter.data *= scale
    client = attackers_half(two_halves(make(), images), images)

    found = ENOUGH.reconstruct(observed(scaled, images), client)
    unscaled = ENOUGH.reconstruct(observed(front, images), client)

    assert found.records.shape == images.shape
    assert psnr_db(found.records, images, 1.0).min() > 60
    assert found.fit < 1e-6
    assert found.records == pytest.approx(unscaled.records, abs=1e-4)


def test_reconstructions_stay_in_the_declared_range():
    images = 8 * noise_images(3) - 5  # from −5 to 3
    client = attackers_half(two_halves(orthogonal_1x1(3), images), images)
    attack = dataclasses.replace(ENOUGH, input_min=-5.0, input_max=3.0)

    found = attack.reconstruct(observed(orthogonal_1x1(3), images), client)

    assert psnr_db(found.records, images, 8.0).min() > 60
    assert found.records.min() >= -5
    assert found.records.max() <= 3


def test_an_input_outside_the_declared_range_is_not_reached():
    images = noise_images(3) + 2

    found = ENOUGH.reconstruct(
        observed(orthogonal_1x1(3), images), attackers_half(two_halves(orthogonal_1x1(3), images), images)
    )

    assert found.records.min() >= 0
    assert found.records.max() <= 1
    assert found.fit > 0.1


def test_the_weights_used_are_those_observed():
    """The attacker's copy starts from another network's weights, and is given the broadcast ones."""
    images = noise_images(3)
    strange = attackers_half(two_halves(orthogonal_3x3(3, seed=9), images), images)

    found = ENOUGH.reconstruct(observed(orthogonal_3x3(3), images), strange)

    assert psnr_db(found.records, images, 1.0).min() > 60


def test_the_fit_is_that_of_the_returned_records():
    images = noise_images(3)
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    client, seen = attackers_half(two_halves(front, images), images), observed(front, images)

    found = dataclasses.replace(ENOUGH, iterations=10).reconstruct(seen, client)

    with torch.no_grad():
        assert found.fit == pytest.approx(float(relative_distance([front(found.records)], seen.smashed)), rel=1e-4)


def test_another_start_leaves_the_point_where_the_first_is_stuck():
    """At mid-range the gradient of (x − 1/2)² is 0 and the distance is 1; a random start has a gradient."""
    images = noise_images(2, channels=1)
    client, seen = attackers_half(two_halves(Squared(), images), images), observed(Squared(), images)

    once, twice = (dataclasses.replace(ENOUGH, restarts=count).reconstruct(seen, client) for count in (1, 2))

    assert once.fit == pytest.approx(1)
    assert torch.equal(once.records, torch.full_like(images, 0.5))
    assert twice.fit < 1e-4


def test_restarts_keep_the_best_fit():
    """Start k is the same however many follow, so the best of more is never worse; here it gets better, then stays."""
    images = noise_images(2, channels=1)
    client, seen = attackers_half(two_halves(Squared(), images), images), observed(Squared(), images)
    attack = dataclasses.replace(ENOUGH, iterations=3)

    found = [dataclasses.replace(attack, restarts=count).reconstruct(seen, client) for count in range(1, 7)]

    fits = [reconstruction.fit for reconstruction in found]
    assert all(later <= earlier for earlier, later in itertools.pairwise(fits))
    assert len(set(fits)) < len(fits)  # a start that did worse was dropped
    for one, other in itertools.pairwise(found):
        assert torch.equal(one.records, other.records) == (one.fit == other.fit)


def test_the_seed_decides_the_later_starts_only():
    images = noise_images(2, channels=1)
    client, seen = attackers_half(two_halves(Squared(), images), images), observed(Squared(), images)

    def rebuilt(seed: int, restarts: int) -> Tensor:
        return dataclasses.replace(ENOUGH, iterations=5, seed=seed, restarts=restarts).reconstruct(seen, client).records

    assert torch.equal(rebuilt(0, 1), rebuilt(1, 1))
    assert torch.equal(rebuilt(0, 2), rebuilt(0, 2))
    assert not torch.equal(rebuilt(0, 2), rebuilt(1, 2))


def test_reconstructing_does_not_move_the_random_state():
    images = noise_images(2)
    client, seen = attackers_half(two_halves(orthogonal_1x1(3), images), images), observed(orthogonal_1x1(3), images)
    before = torch.get_rng_state()

    dataclasses.replace(ENOUGH, iterations=2, restarts=2).reconstruct(seen, client)

    assert torch.equal(torch.get_rng_state(), before)


def test_total_variation_of_stripes():
    """A stripe pattern 0, 1, 0, 1 along one axis: every neighbour across differs by 1, no neighbour down."""
    stripes = torch.tensor([0.0, 1.0]).repeat(3).expand(2, 1, 6, 6)

    assert float(total_variation(stripes)) == 1
    assert float(total_variation(stripes.mT)) == 1
    assert float(total_variation(torch.full((2, 1, 6, 6), 0.7))) == 0
    assert float(total_variation(0.5 * stripes)) == 0.25


def lossy_front() -> nn.Conv2d:
    """64 pixels become 32 numbers: what is missing must be guessed, and how smooth to guess it matters."""
    torch.manual_seed(0)
    return nn.Conv2d(1, 8, 4, stride=4, bias=False)


def ramps() -> Tensor:
    down, across = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    return torch.stack([across, down, (across + down) / 2, 1 - across]).unsqueeze(1)


def checkers() -> Tensor:
    return ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(4, 1, 8, 8)


def test_tuning_picks_the_weight_that_rebuilds_auxiliary_images_best():
    attack = ActivationInversion(iterations=60, total_variation_weights=(0.0, 0.5))
    images = noise_images(4, channels=1)
    client, seen = attackers_half(two_halves(lossy_front(), images), images), observed(lossy_front(), images)

    assert attack.tuned(seen, client, ramps()).total_variation_weights == (0.5,)
    assert attack.tuned(seen, client, checkers()).total_variation_weights == (0.0,)


def test_tuning_reads_nothing_of_the_batch_under_attack():
    """With the smashed data replaced by something unusable, the choice is the same."""
    attack = ActivationInversion(iterations=60, total_variation_weights=(0.0, 0.5))
    images = noise_images(4, channels=1)
    client, seen = attackers_half(two_halves(lossy_front(), images), images), observed(lossy_front(), images)
    unusable = dataclasses.replace(seen, smashed=(torch.full_like(seen.smashed[0], torch.nan),))

    for auxiliary in (ramps(), checkers()):
        assert attack.tuned(unusable, client, auxiliary) == attack.tuned(seen, client, auxiliary)


def test_tuning_changes_the_weight_alone():
    attack = ActivationInversion(iterations=5, learning_rate=0.3, restarts=2, input_min=-1, input_max=2, seed=7)
    images = noise_images(4, channels=1)
    client = attackers_half(two_halves(lossy_front(), images), images)

    tuned = attack.tuned(observed(lossy_front(), images), client, ramps())

    assert tuned == dataclasses.replace(attack, total_variation_weights=tuned.total_variation_weights)
    assert len(tuned.total_variation_weights) == 1


def test_without_auxiliary_images_the_first_weight_is_taken():
    images = noise_images(4, channels=1)
    client = attackers_half(two_halves(lossy_front(), images), images)

    tuned = ActivationInversion(total_variation_weights=(0.3, 0.1)).tuned(observed(lossy_front(), images), client, None)

    assert tuned.total_variation_weights == (0.3,)


def test_fewer_auxiliary_images_than_records_will_do():
    attack = ActivationInversion(iterations=60, total_variation_weights=(0.0, 0.5))
    images = noise_images(4, channels=1)
    client = attackers_half(two_halves(lossy_front(), images), images)

    tuned = attack.tuned(observed(lossy_front(), images), client, ramps()[:2])

    assert tuned.total_variation_weights == (0.5,)


def test_from_log_to_reconstruction_the_truth_is_never_read():
    images = noise_images(4)
    module = two_halves(orthogonal_1x1(3), images)
    log = PoisonedLog()
    log.add(MessageKind.BROADCAST, weights_of(module), client=0, round=0, step=0)
    with torch.no_grad():
        log.add(MessageKind.SMASHED, {"0": module.front(images)}, client=0, round=0, step=0, indices=range(len(images)))
    client = attackers_half(module, images)

    (seen,) = last_observations(AttackerView(log, ENOUGH.threat))
    attack = dataclasses.replace(ENOUGH, total_variation_weights=(0.001, 0.1)).tuned(seen, client, noise_images(4, 3))
    found = attack.reconstruct(seen, client)

    assert psnr_db(found.records, images, 1.0).min() > 60


def test_progress_rises_to_the_end():
    images = noise_images(2)
    client, seen = attackers_half(two_halves(orthogonal_1x1(3), images), images), observed(orthogonal_1x1(3), images)
    told: list[float] = []

    dataclasses.replace(ENOUGH, iterations=4, restarts=2).reconstruct(seen, client, told.append)

    assert told == [place / 8 for place in range(1, 9)]


def test_part_of_maps_a_share_into_one_of_equal_parts():
    told: list[float] = []

    part_of(told.append, 1, 4, 0.5)

    assert told == [0.375]


@pytest.mark.parametrize(
    "image_like",
    [
        pytest.param(torch.zeros(2, 5, dtype=torch.int64), id="tokens"),
        pytest.param(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), id="integer images"),
        pytest.param(torch.zeros(2, 5), id="feature vectors"),
    ],
)
def test_an_input_that_is_no_floating_image_is_refused(image_like):
    class Summed(TwoHalves):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0].flatten(1)[:, :5].float(), batch[1]), batch_idx)

    module = Summed(nn.Linear(5, 6), 6)
    batch = (image_like, torch.zeros(2, dtype=torch.int64))
    client = ClientHalf(module, search(module, batch).cut("front").split, batch)
    seen = observed(module.front, torch.zeros(2, 5))
    shape = ", ".join(map(str, image_like.shape))

    with pytest.raises(ValueError, match=rf"floating images.*'0' \({shape}\) {image_like.dtype}"):
        ENOUGH.reconstruct(seen, client)


def test_several_private_inputs_are_refused_by_name():
    class Pair(TwoHalves):
        def training_step(self, batch, batch_idx):
            return self.head(self.front(batch["left"] + batch["right"])).square().sum()

    module = Pair(nn.Conv2d(3, 2, 1), 2 * 64)
    batch = {"left": noise_images(2), "right": noise_images(2)}
    client = ClientHalf(module, search(module, batch).cut("front").split, batch)

    with pytest.raises(ValueError, match=r"one private input.*'left' .*'right' "):
        ENOUGH.reconstruct(observed(module.front, noise_images(2)), client)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("iterations", 0),
        ("restarts", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("total_variation_weights", ()),
        ("total_variation_weights", (0.1, -0.1)),
        ("input_max", 0.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        ActivationInversion(**{argument: value})

    assert str(value) in str(error.value)


def test_the_module_under_attack_is_left_alone():
    images = noise_images(2)
    module = two_halves(orthogonal_1x1(3), images)
    before = copy.deepcopy(module.state_dict())

    ENOUGH.reconstruct(observed(orthogonal_1x1(3, seed=5), images), attackers_half(module, images))

    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(("value", "least_fit"), [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_smashed_data_that_carry_nothing_give_a_picture_and_no_good_fit(value, least_fit):
    """A dead ReLU sends zeros, a diverged client NaN. Neither may turn the pixels into NaN or pass for a good fit."""
    images = noise_images(2)
    client, seen = attackers_half(two_halves(orthogonal_1x1(3), images), images), observed(orthogonal_1x1(3), images)
    empty = dataclasses.replace(seen, smashed=(torch.full_like(seen.smashed[0], value),))

    found = dataclasses.replace(ENOUGH, iterations=3).reconstruct(empty, client)

    not_finite = int((~found.records.isfinite()).sum())
    assert not_finite == 0
    assert least_fit <= found.fit < float("inf")
