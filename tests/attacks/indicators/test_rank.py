import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.indicators import rank
from attacks.indicators.rank import FIRST_SHARE, IN_CLOSED_FORM, LEAST_SHARE, indicators_of_whole_model
from attacks.program import Program


class WithHead(nn.Module):
    """Layers of the test's choice and a linear head behind them."""

    def __init__(self, front: nn.Module, smashed: int) -> None:
        super().__init__()
        self.front = front
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(smashed, 4))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.head(self.front(images)), labels)


def indicators(front, smashed, shape=(1, 4, 4), label=1, change=lambda module: None):
    torch.manual_seed(0)
    module = WithHead(front, smashed)
    change(module)
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    program = Program(module, None, (torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)))
    return indicators_of_whole_model(program, module.state_dict(), image, label)


@settings(deadline=None, max_examples=10)
@given(out=st.integers(1, 20))
def test_a_fully_connected_layer_gives_the_image_in_closed_form_whatever_its_width(out):
    """Geiping et al. 2020, proposition 3.1; the weight's gradient is k⊗x: with k ≠ 0 its equations have full rank. The
    head reads ``out`` numbers, also with its own gradient: all shares are 1."""
    found = indicators(nn.Sequential(nn.Flatten(), nn.Linear(16, out)), out)

    assert found == {LEAST_SHARE: 1.0, FIRST_SHARE: 1.0, IN_CLOSED_FORM: 1.0}


def test_the_least_share_is_that_of_the_narrowest_layer_by_hand():
    """A convolution of one filter of 2x2 with stride 2 on 4x4: 4 outputs give 4 equations, the gradient of its 4
    weights 4 more, of which one follows from the others (⟨W, dL/dW⟩ = ⟨z, dL/dz⟩): 7 of 16. The head reads 4 numbers
    and holds them all."""
    found = indicators(nn.Conv2d(1, 1, 2, stride=2, bias=False), 4)

    assert found == {LEAST_SHARE: 7 / 16, FIRST_SHARE: 7 / 16, IN_CLOSED_FORM: 0.0}


def test_a_later_layer_may_hold_less_than_the_first():
    """4 filters of 2x2 with stride 2 are square (16 of 16); of their 4x2x2 outputs, 1x1 to one channel gives 4
    equations and the gradient of its 4 weights 3 more that do not follow from them: 7 of 16."""
    found = indicators(nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(4, 1, 1)), 4)

    assert found == {LEAST_SHARE: 7 / 16, FIRST_SHARE: 1.0, IN_CLOSED_FORM: 0.0}


def test_a_dead_layer_gives_nothing_in_closed_form():
    """A head of zeros sends no gradient back: the layer's 2 outputs alone hold 2 of 16."""

    def kill(module):
        module.head[1].weight.data.zero_()

    found = indicators(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 2, change=kill)

    assert found == {LEAST_SHARE: 0.125, FIRST_SHARE: 0.125, IN_CLOSED_FORM: 0.0}


def test_large_layers_are_counted(monkeypatch):
    """4 outputs and 4 weights against 16 unknowns; nothing is decomposed."""
    monkeypatch.setattr(rank, "_MOST_UNKNOWNS", 3)
    monkeypatch.setattr(rank, "layer_rank", None)

    assert indicators(nn.Conv2d(1, 1, 2, stride=2, bias=False), 4)[LEAST_SHARE] == 0.5


def test_layers_without_equations_are_passed_over_and_no_trace_stays():
    front = nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2, padding=2), nn.BatchNorm2d(2), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in front.state_dict().items()}
    random = torch.get_rng_state()
    torch.manual_seed(0)

    found = indicators(front, 32)

    assert found[FIRST_SHARE] == 1  # the head's, the only layer left
    assert all(torch.equal(front.state_dict()[name], before[name]) for name in before)
    assert not any(part._forward_hooks for part in front.modules())
    assert random.shape == torch.get_rng_state().shape


@pytest.mark.parametrize("label", [0, 3])
def test_shares_are_from_0_to_1(label):
    found = indicators(nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU()), 12, label=label)

    assert all(0 <= value <= 1 for value in found.values())
