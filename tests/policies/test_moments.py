"""Variance, second moment and smoothness from gradients whose distribution is known."""

import math

import numpy as np
import pytest
import torch

from lightning_sfl.policies.moments import GradientMoments


def gradients(draw, size, batch, sigma=1.0, mean=0.0):
    """A mean over ``batch`` samples of N(mean, sigma²/size) entries: squared deviation sigma²/batch in all."""
    noise = draw.standard_normal(size) * sigma / math.sqrt(size * batch)
    return {"w": torch.from_numpy(mean / math.sqrt(size) + noise)}


def test_two_gradients_by_hand():
    """g = (1, 0) of a batch of 2 and (0, 1) of a batch of 4, mean (.5, .5): Σ|g - mean|² = 1, and it is expected to be
    (1 - 1/2)(1/2 + 1/4)σ² = .375 σ². The mean squared norm is 1."""
    found = GradientMoments()
    found.add({"w": torch.tensor([1.0, 0.0])}, 1 / 2)
    found.add({"w": torch.tensor([0.0, 1.0])}, 1 / 4)
    found.end_step(3 / 8, begins_round=True)

    assert found.layers()["w"].variance == pytest.approx(1 / 0.375)
    assert found.layers()["w"].second_moment == 1.0


@pytest.mark.parametrize("size", [3, 20000])
def test_the_variance_of_clients_with_batches_of_their_own(size):
    """σ² = 4, 400 rounds of 5 clients. A round's estimate has a relative deviation of some √(2/(4·min(size, 4096))), so
    the mean lies within 5 / √400 of that; entries of a large layer are taken with weights that add to it."""
    draw = np.random.default_rng(0)
    found = GradientMoments()
    for _ in range(400):
        for batch in (1, 2, 4, 8, 16):
            found.add(gradients(draw, size, batch, sigma=2.0, mean=3.0), 1 / batch)
        found.end_step(31 / 80, begins_round=True)

    spread = 5 * math.sqrt(2 / (4 * min(size, 4096))) / math.sqrt(400) + (0.05 if size > 4096 else 0)
    assert found.layers()["w"].variance == pytest.approx(4.0, rel=2 * spread)


def test_after_the_first_step_of_a_round_clients_differ_by_more_than_chance():
    """Then only norms are added: the variance is that of the first step, in which everybody was alike."""
    found = GradientMoments()
    for begins, other in ((True, 1.0), (False, 100.0)):
        found.add({"w": torch.ones(1)}, 1.0)
        found.add({"w": torch.full((1,), other)}, 1.0)
        found.end_step(1.0, begins_round=begins)

    assert found.layers()["w"].variance == 0
    assert found.layers()["w"].second_moment == (1 + 1 + 1 + 100**2) / 4


def test_a_layer_with_one_gradient_for_all_is_compared_from_step_to_step():
    """σ² = 4 in batches of 20 in all, of 5 clients with 4 each: consecutive gradients differ by 2σ²/20. A client's own
    squared norm would be 9 + σ²/4 = 10, of which 9 + σ²/20 pass. 2,000 steps: within 10 %."""
    draw = np.random.default_rng(0)
    found = GradientMoments()
    for _ in range(2000):
        found.add(gradients(draw, 50, 20, sigma=2.0, mean=3.0), 1 / 20)
        found.end_step(1 / 4, begins_round=False)

    assert found.layers()["w"].variance == pytest.approx(4.0, rel=0.1)
    assert found.layers()["w"].second_moment == pytest.approx(10.0, rel=0.02)


def test_a_layer_seen_once_has_no_variance_yet():
    found = GradientMoments()
    found.add({"w": torch.ones(2)}, 0.5)
    found.end_step(0.5, begins_round=True)
    assert found.layers() == {}


def test_what_is_not_a_number_is_left_out():
    found = GradientMoments()
    for value in (math.nan, math.inf, 1.0, 1.0):
        found.add({"w": torch.tensor([value])}, 1.0)
    found.end_step(1.0, begins_round=True)
    assert found.layers()["w"].second_moment == 1.0


def test_the_smoothness_of_a_quadratic_is_exact():
    """Gradients of ½ Σ β w² are β w, of both clients: two intervals at w and at w/2 differ by β/2 |w|."""
    found = GradientMoments()
    weights = torch.tensor([1.0, -2.0, 3.0])
    for scale in (1.0, 0.5):
        for step in range(3):
            for _ in range(2):
                found.add({"w": 7 * scale * weights}, 1.0)
            found.end_step(1.0, begins_round=step == 0)
        found.end_interval({"w": scale * weights})
    assert found.smoothness == pytest.approx(7.0)


def test_chance_is_not_taken_for_curvature():
    """Pure noise at weights that move a little: without the correction β would be near √(2σ²/(20·10))/0.01 = 14; with
    it, what is left is chance of either sign, which says nothing or something small most of the time."""
    small, told = 0, 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        found = GradientMoments()
        for scale in (1.0, 1.01):
            for _ in range(20):
                found.add(gradients(draw, 400, 10, sigma=1.0), 1 / 10)
                found.end_step(1 / 10, begins_round=False)
            found.end_interval({"w": torch.full((400,), scale / 20)})
        small += found.smoothness is None or found.smoothness < 7
        told += found.smoothness is not None
    assert small > 25
    assert told < 12  # a positive remainder alone, as in half of the cases, would tell nothing


def test_a_whole_pass_leaves_nothing_to_chance():
    """Two clients with gradients 1 and 3 of one sample each at w = 1, then 4 and 12 at w = 4: their means differ by 6,
    the weights by 3. The variances are 2 and 32; what chance explains of a mean of two is half of that, 17 of the 36.
    Seen all data, nothing; seen half of them, half of that."""
    for share, expected in ((0.0, 19 / 9), (0.5, 27.5 / 9), (1.0, 4.0), (3.0, 4.0)):
        found = GradientMoments()
        for weight in (1.0, 4.0):
            for gradient in (weight, 3 * weight):
                found.add({"w": torch.tensor([gradient])}, 1.0)
            found.end_step(1.0, begins_round=True)
            found.end_interval({"w": torch.tensor([weight])}, share)
        assert found.smoothness == pytest.approx(math.sqrt(expected))


def test_noise_does_not_make_a_function_less_smooth():
    """½ w², of which β is 1, descended with gradients as noisy as they are long: intervals in which noise hides what
    changed weigh as much as those in which it adds to it."""
    draw, found = np.random.default_rng(0), GradientMoments()
    weights = np.ones(300)
    for _ in range(40):
        for step in range(15):
            made = weights + draw.standard_normal((4, 300))
            for gradient in made:
                found.add({"w": torch.from_numpy(gradient)}, 1.0)
            found.end_step(1.0, begins_round=step == 0)
            weights = weights - 0.01 * made.mean(axis=0)
        found.end_interval({"w": torch.from_numpy(weights)})
    assert 0.7 < found.smoothness < 1.4


def test_what_chance_explains_leaves_the_smoothness_as_it_was():
    """The quadratic of above with β = 7, seen twice without noise; then clients' gradients of 100 and -100, whose mean
    is 0 at the same weights as before: what the mean changed by, (7/2)² = 12.25, is less than what chance explains."""
    found = GradientMoments()
    for weight in (1.0, 0.5):
        for _ in range(2):
            found.add({"w": torch.tensor([7 * weight])}, 1.0)
        found.end_step(1.0, begins_round=True)
        found.end_interval({"w": torch.tensor([weight])})
    for gradient in (100.0, -100.0):
        found.add({"w": torch.tensor([gradient])}, 1.0)
    found.end_step(1.0, begins_round=True)
    found.end_interval({"w": torch.tensor([0.4])})

    assert found.smoothness == pytest.approx(7.0)


def test_it_goes_on_where_it_was():
    def fed(found, numbers):
        for number in numbers:
            draw = np.random.default_rng(number)
            found.add(gradients(draw, 5000, 2), 0.5)
            found.add({"v": torch.from_numpy(draw.standard_normal(3))}, 0.5)
            found.end_step(0.5, begins_round=True)
            found.end_interval({"w": torch.full((5000,), 1.0 * number), "v": torch.ones(3)})
        return found

    whole, first, second = fed(GradientMoments(), range(6)), fed(GradientMoments(), range(3)), GradientMoments()
    second.load_state_dict(first.state_dict())
    fed(second, range(3, 6))

    assert second.layers() == whole.layers()
    assert second.smoothness == whole.smoothness
