import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from smashed_cases import noise_images, orthogonal_1x1
from torch import nn

from attacks.images import ImageSpace
from attacks.smashed.dfil import FisherLeakage
from attacks.smashed.victim import forward_of


def test_an_orthogonal_map_is_exact_with_one_probe():
    """JᵀJ = c²·1 of d unknowns for pixels times c (here the box from −1 to 1: c = 2), so dFIL = c²·d/(σ²·d) = 4/σ²."""
    space = ImageSpace(shape_CHW=(3, 8, 8), low=(-1.0,), high=(1.0,))

    dfil = FisherLeakage(probes=1).measure(noise_images(2), forward_of(orthogonal_1x1(3)), space, 0.5)

    assert dfil == pytest.approx(torch.full((2,), 16.0), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.floats(0.01, 10), st.integers(0, 100))
def test_rows_that_are_orthogonal_give_the_frobenius_norm_exactly(size, rows, noise_std, seed):
    """‖Aᵀv‖² = Σ v_i² ‖a_i‖² = ‖A‖² where inner products of different rows are 0, whatever the signs."""
    draw = torch.Generator().manual_seed(seed)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(size * size, min(rows, size * size), dtype=torch.float64))
    q = torch.linalg.qr(torch.randn(size * size, size * size, generator=draw, dtype=torch.float64))[0]
    layer[1].weight.data = torch.rand(layer[1].out_features, 1, generator=draw) * q[: layer[1].out_features]
    space = ImageSpace(shape_CHW=(1, size, size))
    expected = layer[1].weight.data.square().sum() / (noise_std**2 * size * size)

    dfil = FisherLeakage(probes=1, seed=seed).measure(
        space.random(2, draw, torch.float64), forward_of(layer), space, noise_std
    )

    assert dfil == pytest.approx(expected.expand(2), rel=1e-9)


def test_probes_of_any_linear_map_have_its_frobenius_norm_as_their_mean():
    """Var(vᵀMv) = 2·Σ_{i≠j} M_ij² with M = A·Aᵀ; with n probes the mean is within 4 standard deviations."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(16, 12, bias=False))
    weight = layer[1].weight.detach()
    gram = weight @ weight.T
    deviation = float((2 * (gram.square().sum() - gram.diag().square().sum()) / 400).sqrt())

    dfil = FisherLeakage(probes=400).measure(
        noise_images(1, 1, 4), forward_of(layer), ImageSpace(shape_CHW=(1, 4, 4)), 1.0
    )

    assert float(dfil * 16) == pytest.approx(float(weight.square().sum()), abs=4 * deviation)


def test_every_crossing_tensor_counts():
    """The identity has dFIL 1; half of the rows are half of the information, the other half the rest."""
    space = ImageSpace(shape_CHW=(1, 4, 4))

    def dfil(forward):
        return FisherLeakage().measure(noise_images(2, 1, 4), forward, space, 1.0)

    assert torch.equal(dfil(lambda x: (x[:, :, :2],)), torch.full((2,), 0.5))
    assert torch.equal(dfil(lambda x: (x[:, :, :2], x[:, :, 2:])), torch.ones(2))


def test_the_bound_is_reached_by_the_best_unbiased_estimate():
    """z = x + N(0, σ²): x̂ = z errs by σ² = 1/dFIL per pixel, to 4 standard deviations √(2/n)·σ² of n draws."""
    space = ImageSpace(shape_CHW=(1, 64, 64))
    images = noise_images(1, 1, 64)
    noise = 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    dfil = float(FisherLeakage().measure(images, lambda x: (x,), space, 0.3))

    assert float(noise.square().mean()) == pytest.approx(1 / dfil, rel=4 * (2 / 64**2) ** 0.5)


def test_settings_out_of_range_are_refused_by_name_and_value():
    with pytest.raises(ValueError, match="probes=0"):
        FisherLeakage(probes=0)
    for noise_std in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"noise_std={noise_std}"):
            FisherLeakage().measure(noise_images(1), lambda x: (x,), ImageSpace(shape_CHW=(3, 8, 8)), noise_std)
