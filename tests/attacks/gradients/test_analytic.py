import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from attacks.gradients.analytic import layer_input, records_told_apart, row_inputs
from attacks.gradients.r_gap import layer_rank


def gradients(inputs_BI, out=5, seed=0, scale=1.0):
    """Gradients of a first fully connected layer behind which a rectified network follows."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs_BI.shape[1], generator=draw).requires_grad_()
    bias = torch.randn(out, generator=draw).requires_grad_()
    head = torch.randn(3, out, generator=draw)
    (scale * ((inputs_BI @ weight.T + bias).tanh() @ head.T).square().mean()).backward()
    return weight.grad, bias.grad


@settings(deadline=None, max_examples=30)
@given(
    features=st.integers(1, 20), out=st.integers(1, 9), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-25, 1.0, 1e9]),
)  # fmt: skip
def test_one_record_comes_back_to_numerical_precision(features, out, seed, scale):
    inputs = torch.randn(1, features, generator=torch.Generator().manual_seed(seed + 1000))
    weight, bias = gradients(inputs, out, seed, scale)

    assert layer_input(weight, bias) == pytest.approx(inputs[0].double(), rel=1e-5, abs=1e-5)
    assert row_inputs(weight, bias) == pytest.approx(
        inputs.double().expand(len(row_inputs(weight, bias)), -1), rel=1e-4, abs=1e-4
    )


def test_of_records_that_move_the_layer_alike_the_mean_comes_back():
    """dL/db = (1, −2) for each of three records: dL/dW is that times their sum, and the ratio is a mean."""
    inputs, moves = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 1.0]]), torch.tensor([1.0, -2.0])

    assert layer_input(moves[:, None] * inputs.sum(0), 3 * moves).tolist() == pytest.approx([3, 3])


def test_a_row_that_one_record_moves_gives_it_exactly():
    """Row 0 is moved by record 0 alone, row 1 by both alike, row 2 by none (it is left out)."""
    inputs = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    moves_BO = torch.tensor([[0.5, 1.0, 0.0], [0.0, 1.0, 0.0]])

    found = row_inputs(moves_BO.T @ inputs, moves_BO.sum(0))

    assert found.tolist() == [[1, 4], [2, 3]]


def test_a_dead_layer_gives_nothing():
    assert layer_input(torch.zeros(2, 3), torch.zeros(2)).tolist() == [0, 0, 0]
    assert row_inputs(torch.zeros(2, 3), torch.zeros(2)).shape == (0, 3)
    assert records_told_apart(torch.zeros(2, 3)) == 0


def test_the_rank_counts_the_records():
    for records in (1, 2, 4):
        weight, _ = gradients(torch.randn(records, 12, generator=torch.Generator().manual_seed(records)), out=8)
        assert records_told_apart(weight) == records


def test_gradients_of_another_layer_are_refused():
    with pytest.raises(ValueError, match="weight_OI of shape"):
        layer_input(torch.zeros(2, 3), torch.zeros(4))


@settings(deadline=None, max_examples=15)
@given(features=st.integers(1, 8), out=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_fully_connected_layer_that_moves_has_full_rank(features, out, seed):
    """dL/dW = k ⊗ x gives every entry of x as soon as one entry of k is not 0; without it there is W alone."""
    draw = torch.Generator().manual_seed(seed)
    weight, moves = torch.randn(out, features, generator=draw), torch.randn(out, generator=draw)

    assert layer_rank(weight, moves, (features,)).share == 1
    assert layer_rank(weight, torch.zeros(out), (features,)).rank == min(out, features)


@pytest.mark.parametrize(("filters", "expected"), [(1, 7), (4, 16)])
def test_the_rank_of_a_convolution_by_hand(filters, expected):
    """2x2 filters with stride 2 on 4x4 cut the image into 4 patches x₁..x₄. Forward: w·xₚ = zₚ, 4 equations for each
    filter. Gradient: Σ kₚ xₚ = dL/dW, 4 equations for each. They share one direction for each filter: w·(Σ kₚ xₚ) =
    Σ kₚ zₚ. One filter: 4 + 4 − 1 = 7 of 16 unknowns; four filters: the forward part alone has rank 16."""
    draw = torch.Generator().manual_seed(0)
    weight, moves = torch.randn(filters, 1, 2, 2, generator=draw), torch.randn(filters, 2, 2, generator=draw)

    found = layer_rank(weight, moves, (1, 4, 4), stride=2)

    assert found.unknowns == 16
    assert found.rank == expected


def test_a_convolution_of_full_rank_is_solved_and_one_of_less_is_not_unique():
    """The predictor predicts: with 4 filters least squares on the forward part gives x to precision."""
    draw = torch.Generator().manual_seed(3)
    image, weight = torch.rand(1, 1, 4, 4, generator=draw).double(), torch.randn(4, 1, 2, 2, generator=draw).double()
    moves = torch.randn(4, 2, 2, generator=draw).double()
    assert layer_rank(weight, moves, (1, 4, 4), stride=2).share == 1

    system = torch.stack([conv2d(unit.view(1, 1, 4, 4), weight, stride=2).flatten() for unit in torch.eye(16).double()])
    solved = torch.linalg.lstsq(system.T, conv2d(image, weight, stride=2).flatten()[:, None]).solution

    assert solved.flatten() == pytest.approx(image.flatten(), abs=1e-9)


def test_the_gradient_constraints_are_those_of_autograd():
    """Rank is that of the map x → (Wx, dL/dW) as autograd gives it, with padding and stride."""
    draw = torch.Generator().manual_seed(5)
    layer = nn.Conv2d(2, 1, 3, stride=2, padding=1, bias=False).double()
    moves = torch.randn(1, 3, 3, generator=draw).double()

    def sides(unit):
        output = layer(unit.view(1, 2, 5, 5))[0]
        (gradient,) = torch.autograd.grad((output * moves).sum(), [layer.weight])
        return torch.cat([output.detach().flatten(), gradient.flatten()])

    system = torch.stack([sides(unit) for unit in torch.eye(50).double()])

    found = layer_rank(layer.weight.detach(), moves, (2, 5, 5), stride=2, padding=1)

    assert found.rank == int(torch.linalg.matrix_rank(system))
    assert found.rank < 50
