import dataclasses
import itertools

import pytest
import torch
from smashed_cases import mixing_3x3, noise_images, orthogonal, orthogonal_1x1
from torch import Tensor, nn

from attacks.images import ImageSpace
from attacks.metrics import psnr_db
from attacks.smashed.descent import Descent, total_variation_B
from attacks.smashed.distance import relative_distance
from attacks.smashed.victim import forward_of, program_of, records_are_independent
from attacks.smashed.white_box import FAITHFUL, SMOOTH, WhiteBox

SPACE = ImageSpace(shape_CHW=(3, 8, 8))
SMALL = ImageSpace(shape_CHW=(1, 8, 8))
ENOUGH = WhiteBox(iterations=120, candidates=(FAITHFUL,))


def invertible_3x3() -> nn.Conv2d:
    """The identity, disturbed a little: diagonally dominant, so it has an inverse."""
    convolution = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
    noise = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    convolution.weight.data = 0.03 * noise
    convolution.weight.data[range(3), range(3), 1, 1] += 1
    return convolution.requires_grad_(False)


def orthogonal_linear() -> nn.Sequential:
    front = nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False)).requires_grad_(False)
    front[1].weight.data = orthogonal(64)
    return front


INVERTIBLE = {
    "orthogonal 1x1 convolution": (lambda: orthogonal_1x1(3), SPACE),
    "orthogonal 3x3 convolution": (lambda: mixing_3x3(3), SPACE),
    "invertible 3x3 convolution with bias": (invertible_3x3, SPACE),
    "orthogonal linear map": (orthogonal_linear, SMALL),
}


def squared(images: Tensor) -> tuple[Tensor, ...]:
    """(x − 1/2)²: flat at grey, where the first start begins; x and 1 − x give the same."""
    return ((images - 0.5).square(),)


def attacked(attack, forward, images, space=SPACE):
    with torch.no_grad():
        target = forward(space.to_input(images))
    return attack.reconstruct(target, forward, space, len(images))


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_recovers_the_images_before_an_invertible_half_at_any_scale_of_its_weights(name, scale):
    """Nothing is lost on the way, so all of it can be had back: PSNR above 60 dB is an error below 1e-3 per pixel.

    Adam with the published eps 1e-3 and a distance that is not divided by ‖z‖² stays grey at a scale of 1e-3.
    """
    make, space = INVERTIBLE[name]
    images = noise_images(4, space.shape_CHW[0])
    scaled = make()
    for parameter in scaled.parameters():
        parameter.data *= scale

    found, unscaled = (attacked(ENOUGH, forward_of(front), images, space) for front in (scaled, make()))

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 60
    assert found.fit < 1e-6
    assert found.unit_BCHW == pytest.approx(unscaled.unit_BCHW, abs=1e-4)


def test_the_model_sees_images_in_its_own_range_and_reconstructions_stay_in_the_box():
    space = ImageSpace(shape_CHW=(3, 8, 8), low=(-5.0, 0.0, 2.0), high=(3.0, 1.0, 4.0))
    images = noise_images(3)

    found = attacked(ENOUGH, forward_of(orthogonal_1x1(3)), images, space)

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 60
    assert found.unit_BCHW.min() >= 0
    assert found.unit_BCHW.max() <= 1


def test_an_image_outside_the_box_is_not_reached():
    found = attacked(ENOUGH, forward_of(orthogonal_1x1(3)), noise_images(3) + 2)

    assert found.unit_BCHW.min() >= 0
    assert found.unit_BCHW.max() <= 1
    assert found.fit > 0.1


def lossy_relu() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()).requires_grad_(False)


def test_the_fit_is_that_of_the_returned_images():
    """Mean over records of each one's own relative distance."""
    images, forward = noise_images(3), forward_of(lossy_relu())

    found = attacked(dataclasses.replace(ENOUGH, iterations=10), forward, images)

    each = [
        float(relative_distance(forward(rebuilt[None]), forward(image[None])))
        for rebuilt, image in zip(found.unit_BCHW, images, strict=True)
    ]
    assert found.fit == pytest.approx(sum(each) / 3, rel=1e-4)


def test_records_rebuilt_together_are_those_rebuilt_alone():
    """Where they do not depend on one another: scaling one by 1000 changes nothing for the others either."""
    images, forward = noise_images(3), forward_of(lossy_relu())
    attack = dataclasses.replace(ENOUGH, iterations=30)

    together = attacked(attack, forward, images).unit_BCHW
    alone = torch.cat([attacked(attack, forward, image[None]).unit_BCHW for image in images])

    assert together == pytest.approx(alone, abs=1e-3)


def test_records_that_are_done_take_no_further_part():
    """Mid-grey explains its own smashed data at once; the others do not stop there."""
    images = noise_images(3, 1)
    images[1] = 0.5
    sizes: list[int] = []

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        return (x + 1,)

    found = WhiteBox(iterations=50, enough=1e-9).reconstruct((images + 1,), forward, SMALL, 3)

    assert torch.equal(found.unit_BCHW[1], images[1])
    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 30
    assert sizes[:4] == [3, 3, 3, 2]  # two to see that records are independent, one step together, then without it


def test_all_done_ends_the_work():
    found = WhiteBox(iterations=400, enough=1e-3).reconstruct((noise_images(2),), lambda x: (x,), SPACE, 2)

    assert found.iterations < 400
    assert found.fit <= 1e-3


def test_batch_statistics_tie_a_batch_which_is_then_rebuilt_as_one():
    """Batch normalisation in training mode hides scale and offset of the whole batch and shows all else.

    So what is found gives the smashed data that were sent. Rebuilt one by one it would be normalised by itself.
    """
    front = nn.BatchNorm2d(1).requires_grad_(False).train()
    forward, images = forward_of(front), noise_images(4, 1)

    found = attacked(dataclasses.replace(ENOUGH, iterations=400), forward, images, SMALL)

    assert not records_are_independent(forward, images)
    assert found.fit < 1e-3
    assert forward(found.unit_BCHW)[0] == pytest.approx(forward(images)[0], abs=0.1)


def test_independence_is_found_out_by_changing_the_other_records():
    normalised = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)
    images = noise_images(3)

    assert not records_are_independent(forward_of(normalised.train()), images)
    assert records_are_independent(forward_of(normalised.train()), images[:1])
    assert records_are_independent(forward_of(normalised.eval()), images)
    assert not records_are_independent(lambda x: (x.flatten(0, 1)[:, None].repeat(1, 2, 1, 1),), images)


def test_the_statistics_of_the_attackers_copy_are_left_alone():
    front = nn.BatchNorm2d(3).train()
    before = {name: tensor.clone() for name, tensor in front.state_dict().items()}

    attacked(dataclasses.replace(ENOUGH, iterations=2), forward_of(front), noise_images(2))
    program_of(front)({"weight": torch.zeros(3)}, noise_images(2))

    assert all(torch.equal(before[name], tensor) for name, tensor in front.state_dict().items())
    assert front.weight.grad is None


def test_another_start_leaves_the_point_where_the_first_is_stuck():
    """At grey the gradient of (x − 1/2)² is 0 and the distance is 1; noise has a gradient."""
    images = noise_images(2, 1)

    once, twice = (attacked(dataclasses.replace(ENOUGH, restarts=count), squared, images, SMALL) for count in (1, 2))

    assert once.fit == pytest.approx(1)
    assert torch.equal(once.unit_BCHW, torch.full_like(images, 0.5))
    assert twice.fit < 1e-4


def test_every_record_keeps_its_own_best_start():
    """Three starts of 2 records: the last round begins at the start with the better fit, record by record."""
    images = noise_images(2, 1)
    seen: list[Tensor] = []

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        seen.append(x.detach().clone())
        return squared(x)

    attack = WhiteBox(iterations=4, candidates=(FAITHFUL,), restarts=2, enough=0)
    attack.reconstruct(squared(images), forward, SMALL, 2)

    # Independence takes two; a quarter of 4 steps and its fit for each start; then the descent.
    ends, begun = (seen[3], seen[5]), seen[6]
    target = squared(images)[0]
    fits = torch.stack([(squared(end)[0] - target).square().flatten(1).sum(1) for end in ends])
    for record in range(2):
        assert torch.equal(begun[record], ends[int(fits[:, record].argmin())][record])


def test_the_seed_decides_the_later_starts_only():
    images = noise_images(2, 1)

    def rebuilt(seed: int, restarts: int) -> Tensor:
        attack = dataclasses.replace(ENOUGH, iterations=5, seed=seed, restarts=restarts)
        return attacked(attack, squared, images, SMALL).unit_BCHW

    assert torch.equal(rebuilt(0, 1), rebuilt(1, 1))
    assert torch.equal(rebuilt(0, 2), rebuilt(0, 2))
    assert not torch.equal(rebuilt(0, 2), rebuilt(1, 2))


def test_attacking_does_not_move_the_random_state():
    before = torch.get_rng_state()

    attacked(dataclasses.replace(ENOUGH, iterations=2, restarts=2), squared, noise_images(2, 1), SMALL)

    assert torch.equal(torch.get_rng_state(), before)


def test_total_variation_of_stripes():
    """A stripe pattern 0, 1, 0, 1 along one axis: every neighbour across differs by 1, no neighbour down."""
    stripes = torch.tensor([0.0, 1.0]).repeat(3).expand(2, 1, 6, 6)

    assert total_variation_B(torch.cat([stripes, stripes.mT, 0.5 * stripes])).tolist() == [1, 1, 1, 1, 0.25, 0.25]
    assert not total_variation_B(torch.full((2, 1, 6, 6), 0.7)).any()


def lossy_front() -> nn.Conv2d:
    """64 pixels become 32 numbers: what is missing must be guessed, and how smooth to guess it matters."""
    torch.manual_seed(0)
    return nn.Conv2d(1, 8, 4, stride=4, bias=False).requires_grad_(False)


def ramps() -> Tensor:
    down, across = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    return torch.stack([across, down, (across + down) / 2, 1 - across]).unsqueeze(1)


def checkers() -> Tensor:
    return ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(4, 1, 8, 8)


CHOICE = WhiteBox(
    iterations=60,
    candidates=(Descent(prior_weight=0.0, learning_rate=0.4), Descent(prior_weight=0.5, learning_rate=0.4)),
)


@pytest.mark.parametrize("count", [2, 4])
def test_tuning_picks_the_candidate_that_rebuilds_auxiliary_images_best(count):
    """Also with fewer auxiliary images than a batch holds."""
    forward = forward_of(lossy_front())

    assert CHOICE.tuned(ramps()[:count], forward, SMALL, 4) == dataclasses.replace(
        CHOICE, candidates=CHOICE.candidates[1:]
    )
    assert CHOICE.tuned(checkers()[:count], forward, SMALL, 4) == dataclasses.replace(
        CHOICE, candidates=CHOICE.candidates[:1]
    )


def test_without_auxiliary_images_the_first_candidate_is_taken():
    assert WhiteBox().tuned(None, forward_of(lossy_front()), SMALL, 4).candidates == (FAITHFUL,)
    assert WhiteBox(candidates=(SMOOTH, FAITHFUL)).tuned(None, forward_of(lossy_front()), SMALL, 4).candidates == (
        SMOOTH,
    )


def test_one_lost_image_does_not_outweigh_what_the_others_gained():
    """The mean of log errors, as PSNR has it: with errors 1e-8, 1e-8, 1e-2 against three times 2e-3, the first wins."""
    images = torch.full((3, 1, 8, 8), 0.5)
    errors = iter([(1e-4, 1e-4, 0.1), (0.045, 0.045, 0.045)])

    class Given(WhiteBox):
        def reconstruct(self, target, forward, space, records, progress=None):
            off = torch.tensor(next(errors))[:, None, None, None]
            return dataclasses.replace(super().reconstruct(target, forward, space, records), unit_BCHW=images + off)

    assert Given(iterations=1).tuned(images, lambda x: (x,), SMALL, 3).candidates == (FAITHFUL,)


def test_progress_rises_to_the_end():
    """Two starts of a quarter of 4 steps, then 4: 6 in all."""
    told: list[float] = []

    WhiteBox(iterations=4, restarts=2, enough=0).reconstruct(
        squared(noise_images(2, 1)), squared, SMALL, 2, told.append
    )

    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    assert all(one <= other for one, other in itertools.pairwise(told))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_smashed_data_in_16_bits_are_worked_on_in_32(dtype):
    """Small steps of the optimiser would be lost in 16 bits, and sums of squares of 300 overflow float16."""
    images = noise_images(2)
    target = (orthogonal_1x1(3)(300 * images).to(dtype),)

    found = ENOUGH.reconstruct(target, lambda x: (orthogonal_1x1(3).to(x.dtype)(300 * x),), SPACE, 2)

    assert found.unit_BCHW.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert psnr_db(found.unit_BCHW, images, 1.0).min() > (40 if dtype == torch.bfloat16 else 55)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_smashed_data_that_carry_nothing_leave_grey_and_no_fit(value):
    """A dead ReLU sends zeros, a diverged client NaN. Neither may turn pixels into NaN or pass for a good fit."""
    found = ENOUGH.reconstruct((torch.full((2, 3, 8, 8), value),), forward_of(orthogonal_1x1(3)), SPACE, 2)

    assert torch.equal(found.unit_BCHW, torch.full((2, 3, 8, 8), 0.5))
    assert found.fit == 1


def test_one_dead_record_does_not_spoil_the_others():
    """Its own distance has no scale, so the batch is taken as one."""
    images = noise_images(3)
    images[0] = 0

    found = attacked(ENOUGH, forward_of(orthogonal_1x1(3)), images)

    assert psnr_db(found.unit_BCHW, images, 1.0).min() > 55
    assert found.fit < 1e-5


@pytest.mark.parametrize(
    ("argument", "value"), [("iterations", 0), ("restarts", 0), ("candidates", ()), ("enough", float("nan"))]
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        WhiteBox(**{argument: value})

    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("argument", "value"), [("prior_weight", -0.1), ("prior_weight", float("nan")), ("learning_rate", 0.0)]
)
def test_a_descent_out_of_range_is_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        Descent(**{"prior_weight": 0.0, "learning_rate": 0.1, argument: value})


def test_the_budget_counts_every_start():
    """Four starts: rounds of 4 and 2 quarters of 100 before the last descent of 100."""
    assert WhiteBox(iterations=100, restarts=4).budget.startswith("at most 250 iterations from 4 start(s)")
