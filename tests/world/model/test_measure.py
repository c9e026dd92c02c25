"""Every expected number is derived in the docstring of the network or the test. 1 MAC = 2 FLOP, float32 = 4 bytes."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sfl.cut.find import search
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile

BATCH = 3


class ConvLinear(nn.Module):
    """A 3x3 convolution of 4x4 images (1 to 2 channels, padded), ReLU, flatten, linear 32 to 5; then a head.

    Forward per sample: convolution 16 places · 2 channels · 9 products = 288 MAC = 576 FLOP, linear 32 · 5 = 160 MAC =
    320 FLOP. Backward: each layer's weight gradient costs as much as its forward pass, and so does its input gradient;
    nobody needs that of the images. So the convolution costs 576 FLOP and the linear layer 640.
    Parameters: convolution 2 · 9 + 2 = 20, linear 32 · 5 + 5 = 165.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.act = nn.ReLU()
        self.flat = nn.Flatten()
        self.linear = nn.Linear(32, 5)
        self.head = nn.Linear(5, 3)

    def front(self, images: Tensor) -> Tensor:
        return self.linear(self.flat(self.act(self.conv(images))))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.head(self.front(images)), labels)


class Normalised(ConvLinear):
    """The same with batch normalisation of the 2 channels behind the convolution, and dropout behind the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)

    def front(self, images: Tensor) -> Tensor:
        return self.linear(self.flat(self.drop(self.act(self.norm(self.conv(images))))))


def batch(records: int = BATCH) -> tuple[Tensor, Tensor]:
    return torch.rand(records, 1, 4, 4), torch.arange(records) % 3


def profiled(module: nn.Module, cut: str, optimizer: torch.optim.Optimizer | None = None) -> Profile:
    return profile_cuts(module, batch(), {cut: search(module, batch()).split(cut)}, optimizer)


def training_line(found: Profile) -> list[list[float]]:
    return found.client_training_memory_line[0].tolist()


@pytest.mark.parametrize(
    ("cut", "forward", "backward"), [("conv", 576, 576), ("flat", 576, 576), ("linear", 896, 1216)]
)
def test_flops_of_a_convolution_and_a_linear_layer(cut, forward, backward):
    """The whole step takes 576 + 320 and, in the head, 5 · 3 = 15 MAC = 30 FLOP forward; back 1216 and twice 30."""
    found = profiled(ConvLinear(), cut)

    assert found.client_forward_flop.tolist() == [[0, forward]]
    assert found.client_backward_flop.tolist() == [[0, backward]]
    assert found.server_forward_flop.tolist() == [[0, 926 - forward]]
    assert found.server_backward_flop.tolist() == [[0, 1276 - backward]]


@pytest.mark.parametrize(("cut", "parameters", "elements"), [("conv", 20, 32), ("linear", 185, 5)])
def test_parameters_and_what_crosses(cut, parameters, elements):
    """Labels are 64-bit integers, one per sample; an update is every parameter in 32 bits."""
    found = profiled(ConvLinear(), cut)

    assert found.cuts == (cut,)
    assert found.client_parameters.tolist() == found.update_parameters.tolist() == [parameters]
    assert found.client_parameter_byte.tolist() == [4 * parameters]
    assert found.update_bit.tolist() == [32 * parameters]
    assert found.smashed_element.tolist() == found.cut_gradient_element.tolist() == [[[0, elements]]]
    assert found.smashed_bit.tolist() == found.cut_gradient_bit.tolist() == [[0, 32 * elements]]
    assert found.beside_bit.tolist() == [[0, 64]]
    assert found.batch_byte.tolist() == [0, 16 * 4 + 8]


def test_training_memory_of_a_convolution():
    """Fixed: weights and their gradients, 80 B each. Per sample: image and label 72 B, the smashed data and the cut
    gradient 32 · 4 = 128 B each."""
    assert training_line(profiled(ConvLinear(), "conv")) == [[160, 72 + 128 + 128]]


@pytest.mark.parametrize(
    ("optimizer", "state_byte", "state_bit"),
    [
        pytest.param(lambda p: torch.optim.SGD(p, lr=0.1), 0, 0, id="SGD: none"),
        pytest.param(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 80, 640, id="momentum: one value per weight"),
        pytest.param(torch.optim.Adam, 168, 1344, id="Adam: two values per weight, a step of 4 B per tensor"),
    ],
)
def test_training_memory_holds_the_state_of_the_optimizer(optimizer, state_byte, state_bit):
    """Two tensors (weight, bias) of 20 values in all; the state of the server's layers is not the client's."""
    module = ConvLinear()

    found = profiled(module, "conv", optimizer(module.parameters()))

    assert training_line(found) == [[160 + state_byte, 328]]
    assert found.optimizer_state_bit.tolist() == [state_bit]


def test_training_memory_up_to_the_linear_layer():
    """The most is held when the ReLU's backward pass has made its gradient. Fixed: weights 740 B, gradients of the
    linear layer alone, 165 · 4 = 660 B. Per sample: the batch 72 B, the ReLU's output (which the linear layer saves)
    128 B, smashed data and cut gradient 20 B each, the gradients behind and before the ReLU 128 B each."""
    assert training_line(profiled(ConvLinear(), "linear")) == [[1400, 72 + 128 + 40 + 256]]


def test_memory_is_the_greatest_of_several_functions_of_the_batch_size():
    """With Adam, up to the linear layer, a step takes the most when it works on the linear weight (160 values): a
    square root and a denominator of its own, and the one of the parameter before, 3 · 640 B at most; beside 740 B of
    weights, 740 B of gradients, 2 · 740 + 4 · 4 B of state, and the batch. That is more than backward takes for few
    samples."""
    module = ConvLinear()

    lines = training_line(profiled(module, "linear", torch.optim.Adam(module.parameters())))

    state = 2 * 740 + 4 * 4
    assert lines[-1] == [1400 + state, 496]
    assert lines[0][1] == 72
    assert 740 + 740 + state + 2 * 640 <= lines[0][0] <= 740 + 740 + state + 3 * 640


def test_forward_memory():
    """Without gradients the ReLU's input is still held when its output is made: 740 B of weights, the batch, and twice
    128 B per sample."""
    assert profiled(ConvLinear(), "linear").client_forward_memory_line[0].tolist() == [[740, 72 + 256]]


def test_training_memory_with_buffers():
    """Up to the normalisation there are 24 parameters, 96 B. Buffers: mean and variance 2 · 2 · 4 B, a counter of 8 B.
    The most is held when the normalisation's backward pass has ended: its 4 gradients, 16 B; the batch's mean and
    deviation, 16 B. Per sample: the batch 72 B; the convolution's output, its gradient, the smashed data and the cut
    gradient, 128 B each."""
    found = profiled(Normalised(), "norm")

    assert training_line(found) == [[96 + 24 + 16 + 16, 72 + 4 * 128]]
    assert found.client_buffer_byte.tolist() == [24]
    assert found.update_bit.tolist() == [8 * (96 + 24)]


def test_frozen_layers_have_no_gradient_no_state_and_save_nothing():
    """With the convolution frozen, the backward pass is the linear layer's weight gradient alone, 320 FLOP. At its end
    there are gradients and momentum of 165 · 4 = 660 B each; per sample the ReLU's output that it read, the smashed
    data and the cut gradient. Of many samples more is held in the forward pass, by the
    ReLU's input and output."""
    module = ConvLinear()
    module.conv.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)

    found = profiled(module, "linear", optimizer)

    assert found.client_forward_flop.tolist() == [[0, 896]]
    assert found.client_backward_flop.tolist() == [[0, 320]]
    assert training_line(found) == [[740 + 660 + 660, 72 + 128 + 40], [740 + 660, 72 + 256]]
    assert (found.client_parameters.tolist(), found.update_parameters.tolist()) == ([185], [165])
    assert found.update_bit.tolist() == [8 * 660]


def test_no_gradient_comes_back_to_a_client_that_trains_nothing():
    module = ConvLinear()
    module.conv.requires_grad_(requires_grad=False)

    found = profiled(module, "conv")

    assert found.cut_gradient_bit.tolist() == [[0, 0]]
    assert found.update_bit.tolist() == found.optimizer_state_bit.tolist() == [0]


def test_the_whole_model_is_that_of_a_client_that_computes_everything():
    """185 parameters and the head's 5 · 3 + 3 = 18. Nothing crosses."""
    whole = profiled(ConvLinear(), "conv").whole

    assert whole.client_parameters.tolist() == [203]
    assert whole.client_forward_flop.tolist() == [[0, 926]]
    assert whole.client_backward_flop.tolist() == [[0, 1276]]
    assert whole.server_forward_flop.tolist() == whole.smashed_bit.tolist() == whole.beside_bit.tolist() == [[0, 0]]


def test_an_optimizer_of_the_server_alone_adds_no_state():
    module = ConvLinear()

    assert training_line(profiled(module, "conv", torch.optim.Adam(module.head.parameters()))) == [[160, 328]]


def test_module_optimizer_and_random_state_stay_as_they_were():
    module = Normalised()
    module.head.weight.grad = torch.ones_like(module.head.weight)
    optimizer = torch.optim.Adam(module.parameters())
    splits = {"linear": search(module, batch()).split("linear")}
    data = batch()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()

    profile_cuts(module, data, splits, optimizer)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["head.weight"]
    assert torch.equal(module.head.weight.grad, torch.ones_like(module.head.weight))
    assert len(optimizer.state) == 0
    assert module.training


def test_an_optimizer_that_has_stepped_is_left_alone_and_counts_the_same():
    module = ConvLinear()
    optimizer = torch.optim.Adam(module.parameters())
    module.training_step(batch(), 0).backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())

    found = profiled(module, "conv", optimizer)

    after = optimizer.state_dict()
    assert training_line(found) == [[160 + 168, 328]]
    assert before["param_groups"] == after["param_groups"]
    for place, state in before["state"].items():
        assert all(torch.equal(value, after["state"][place][key]) for key, value in state.items())


def test_another_way_to_run_a_step_can_be_given():
    class Plain(ConvLinear):
        training_step = None

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.front(images))

    def step(module: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(module(data[0]), data[1])

    module = Plain()
    splits = {"linear": search(module, batch(), step=step).split("linear")}

    assert profile_cuts(module, batch(), splits, step=step).client_forward_flop.tolist() == [[0, 896]]


def test_cuts_stand_in_order_of_execution():
    module = ConvLinear()
    found = search(module, batch())

    profile = profile_cuts(module, batch(), {cut: found.split(cut) for cut in ("linear", "conv", "flat")})

    assert profile.cuts == ("conv", "flat", "linear")
    assert profile.client_parameters.tolist() == [20, 20, 185]
    assert profile.index(["linear", "conv", "linear"]).tolist() == [2, 0, 2]


def test_an_unknown_cut_is_refused_with_its_neighbours():
    with pytest.raises(ValueError, match="cut='linar' is not among the 1 cuts of the profile; near are 'linear'"):
        profiled(ConvLinear(), "linear").index(["linear", "linar"])


class LooksAtValues(ConvLinear):
    def front(self, images: Tensor) -> Tensor:
        assert images.max().item() < 2
        return super().front(images)


def test_a_step_that_looks_at_values_is_profiled_all_the_same():
    """It looks at one, in two operations (the maximum, and reading it)."""
    module, data = LooksAtValues(), batch()
    splits = {"linear": search(module, data).split("linear")}
    state = torch.get_rng_state()

    found = profile_cuts(module, data, splits)

    assert torch.equal(torch.get_rng_state(), state)
    like = profiled(ConvLinear(), "linear")
    for field in ("client_forward_flop", "server_backward_flop", "smashed_bit", "client_training_memory_line"):
        assert np.array_equal(getattr(found, field), getattr(like, field))


class Moody(ConvLinear):
    def front(self, images: Tensor) -> Tensor:
        return super().front(images if len(images) % 2 else images * 1.0)


def test_a_program_that_depends_on_the_batch_size_is_refused():
    with pytest.raises(ValueError, match=r"runs \d+ operations on 2 records and \d+ on 3"):
        profiled(Moody(), "linear")
