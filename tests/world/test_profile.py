"""Every expected number is derived in the docstring of the network or the test. 1 MAC = 2 FLOP, float32 = 4 bytes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sfl.cut.find import search
from lightning_sfl.world.profile import CutProfile, profile_cut

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


def profiled(
    module: nn.Module, cut: str, optimizer: torch.optim.Optimizer | None = None, records: int = BATCH
) -> CutProfile:
    return profile_cut(module, batch(records), search(module, batch()).cut(cut), optimizer)


@pytest.mark.parametrize(
    ("cut", "forward", "backward"), [("conv", 576, 576), ("flat", 576, 576), ("linear", 896, 1216)]
)
@pytest.mark.parametrize("records", [1, 3])
def test_flops_per_sample_of_a_convolution_and_a_linear_layer(cut, forward, backward, records):
    found = profiled(ConvLinear(), cut, records=records)

    assert found.client_forward_flop_per_sample == forward
    assert found.client_backward_flop_per_sample == backward
    assert found.batch_size == records


@pytest.mark.parametrize(("cut", "parameters", "smashed_byte"), [("conv", 20, 4 * 32), ("linear", 185, 4 * 5)])
def test_parameters_and_smashed_bytes(cut, parameters, smashed_byte):
    found = profiled(ConvLinear(), cut)

    assert found.cut == cut
    assert found.client_parameters == parameters
    assert found.client_parameter_byte == 4 * parameters
    assert found.smashed_byte_per_sample == smashed_byte


def test_training_memory_of_a_convolution():
    """Weights 80 B, gradients 80 B, no buffers; saved is the batch of images, 3 · 16 · 4 = 192 B: 352 B."""
    assert profiled(ConvLinear(), "conv").client_training_memory_byte == 352


@pytest.mark.parametrize(
    ("optimizer", "state_byte"),
    [
        pytest.param(lambda p: torch.optim.SGD(p, lr=0.1), 0, id="SGD: none"),
        pytest.param(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 80, id="momentum: one value per weight"),
        pytest.param(lambda p: torch.optim.Adam(p), 168, id="Adam: two values per weight, a step of 4 B per tensor"),
    ],
)
def test_training_memory_holds_the_state_of_the_optimizer(optimizer, state_byte):
    """Two tensors (weight, bias) of 20 values in all; the state of the server's layers is not the client's."""
    module = ConvLinear()

    found = profiled(module, "conv", optimizer(module.parameters()))

    assert found.client_training_memory_byte == 352 + state_byte


def test_training_memory_up_to_the_linear_layer():
    """Weights 740 B and gradients 740 B. Saved: images 192 B, the ReLU's output 3 · 32 · 4 = 384 B, which the linear
    layer saves as well, as a view of the same memory: 2056 B in all."""
    assert profiled(ConvLinear(), "linear").client_training_memory_byte == 2056


def test_saved_activations_grow_with_the_batch_and_nothing_else_does():
    """Weights and gradients 1480 B, saved (16 + 32) · 4 = 192 B per sample."""
    for records in (1, 3, 10):
        assert profiled(ConvLinear(), "linear", records=records).client_training_memory_byte == 1480 + 192 * records


def test_training_memory_with_buffers():
    """Up to the normalisation there are 24 parameters: weights 96 B, gradients 96 B. Buffers: mean and variance
    2 · 2 · 4 B, a counter of 8 B. Saved: images 192 B, the convolution's output 384 B, the batch's mean and deviation
    16 B."""
    assert profiled(Normalised(), "norm").client_training_memory_byte == 96 + 96 + 24 + 192 + 384 + 16


def test_frozen_layers_have_no_gradient_no_state_and_save_nothing():
    """With the convolution frozen: weights 740 B; of the linear layer alone gradients and momentum of 165 · 4 = 660 B
    each, saved input 384 B. Its weight gradient is all there is to the backward pass, 320 FLOP."""
    module = ConvLinear()
    module.conv.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)

    found = profiled(module, "linear", optimizer)

    assert found.client_forward_flop_per_sample == 896
    assert found.client_backward_flop_per_sample == 320
    assert found.client_training_memory_byte == 740 + 660 + 660 + 384


def test_an_optimizer_of_the_server_alone_adds_no_state():
    module = ConvLinear()
    optimizer = torch.optim.Adam(module.head.parameters())

    assert profiled(module, "conv", optimizer).client_training_memory_byte == 352


def test_module_optimizer_and_random_state_stay_as_they_were():
    module = Normalised()
    module.head.weight.grad = torch.ones_like(module.head.weight)
    optimizer = torch.optim.Adam(module.parameters())
    cut = search(module, batch()).cut("linear")
    data = batch()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()

    profile_cut(module, data, cut, optimizer)

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
    assert found.client_training_memory_byte == 352 + 168
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
    cut = search(module, batch(), step=step).cut("linear")

    assert profile_cut(module, batch(), cut, step=step).client_forward_flop_per_sample == 896
