import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ExponentialLR

from lightning_sfl.clients import Participant, Shard


class Counting(nn.Module):
    """A linear layer that counts its calls in one buffer by assignment and in another in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("assigned", torch.zeros(1))
        self.register_buffer("changed", torch.zeros(1))

    def forward(self, x):
        self.assigned = self.assigned + 1
        self.changed += 1
        return self.layer(x)


def make(seed=0):
    torch.manual_seed(seed)
    module = Counting()
    optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
    shard = Shard(module, ["layer.weight", "layer.bias"], ["assigned", "changed"], optimizer)
    return module, optimizer, shard


def state_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_equal(tensors, others):
    assert list(tensors) == list(others)
    for name in tensors:
        assert torch.equal(tensors[name], others[name]), name


def test_installed_puts_the_shards_tensors_in_place_and_takes_them_out_again():
    module, _, shard = make()
    before = state_of(module)
    pointers = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    own = {name: tensor + 5 for name, tensor in before.items()}
    shard.load(own, {})
    with shard.installed():
        assert_equal(state_of(module), own)
    assert_equal(state_of(module), before)
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == pointers
    assert_equal(shard.tensors(), {name: own[name] for name in shard.tensors()})
    assert shard.tensors().keys() == own.keys()


def test_the_modules_tensors_come_back_after_an_exception():
    module, _, shard = make()
    before = state_of(module)
    shard.load({name: tensor + 5 for name, tensor in before.items()}, {})
    x = torch.ones(3, 2)

    def step():
        with shard.installed():
            module(x).sum().backward()
            raise RuntimeError("the user's step fails")

    with pytest.raises(RuntimeError, match="the user's step fails"):
        step()
    assert_equal(state_of(module), before)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert shard.buffers["assigned"].item() == 6


def test_gradients_end_on_the_shards_own_parameters():
    module, _, shard = make()
    reference = copy.deepcopy(module)
    x = torch.randn(3, 2)
    with shard.installed():
        module(x).square().sum().backward()
    reference(x).square().sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    for name, parameter in reference.named_parameters():
        assert torch.equal(shard.parameters[name].grad, parameter.grad)


def test_gradients_of_several_passes_add_up():
    module, _, shard = make()
    x = torch.ones(1, 2)
    for _ in range(2):
        with shard.installed():
            module(x).sum().backward()
    assert shard.parameters["layer.weight"].grad.tolist() == [[2.0, 2.0]]


def test_a_buffer_written_by_the_forward_is_taken_over_assigned_or_in_place():
    module, _, shard = make()
    assigned, changed = module.assigned, module.changed
    for _ in range(3):
        with shard.installed():
            module(torch.ones(1, 2))
    assert shard.tensors()["assigned"].item() == 3
    assert shard.tensors()["changed"].item() == 3
    assert module.assigned is assigned
    assert module.changed is changed
    assert module.assigned.item() == module.changed.item() == 0
    assert module._buffers.keys() == {"assigned", "changed"}


def test_a_weight_written_in_place_by_the_step_is_taken_over():
    module, _, shard = make()
    before = state_of(module)
    with shard.installed(), torch.no_grad():
        module.layer.weight.fill_(7.0)
    assert_equal(state_of(module), before)
    assert shard.tensors()["layer.weight"].tolist() == [[7.0, 7.0]]


def test_a_weight_whose_data_the_step_assigns_is_taken_over():
    """As in `weight.data = weight.data.clamp(-1, 1)`, which in plain training stays."""
    module, _, shard = make()
    before = state_of(module)
    with shard.installed():
        module.layer.weight.data = torch.full((1, 2), 7.0)
    assert_equal(state_of(module), before)
    assert shard.tensors()["layer.weight"].tolist() == [[7.0, 7.0]]


def test_two_shards_of_one_module_do_not_see_each_other():
    module, optimizer, shard = make()
    other = Shard(module, ["layer.weight", "layer.bias"], ["assigned", "changed"], optimizer)
    with shard.installed():
        module(torch.ones(1, 2)).sum().backward()
    shard.step()
    with other.installed():
        assert module.assigned.item() == 0
        assert module.layer.weight.grad is None
    assert not torch.equal(shard.parameters["layer.weight"], other.parameters["layer.weight"])
    assert torch.equal(other.parameters["layer.weight"], module.layer.weight)
    assert other.parameters["layer.weight"].grad is None


def test_steps_of_a_shard_are_those_of_plain_training_bit_for_bit():
    module, optimizer, shard = make()
    scheduler = ExponentialLR(optimizer, gamma=0.5)
    reference = copy.deepcopy(module)
    plain = SGD(reference.parameters(), lr=0.1, momentum=0.9)
    plain_scheduler = ExponentialLR(plain, gamma=0.5)
    untouched = state_of(module)
    for seed in range(4):
        x = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))
        with shard.installed():
            module(x).square().mean().backward()
        shard.step()
        optimizer.step()  # of nothing: the module's own parameters have no gradient
        scheduler.step()
        plain.zero_grad()
        reference(x).square().mean().backward()
        plain.step()
        plain_scheduler.step()
    tensors = shard.tensors()
    assert_equal({name: tensors[name] for name in untouched}, state_of(reference))
    assert_equal(state_of(module), untouched)
    momentum = plain.state[reference.layer.weight]["momentum_buffer"]
    assert torch.equal(shard.optimizer_state()["layer.weight"]["momentum_buffer"], momentum)
    assert all(parameter.grad is None for parameter in shard.parameters.values())


def test_load_takes_copies_and_forgets_gradients_and_state():
    module, _, shard = make()
    with shard.installed():
        module(torch.ones(1, 2)).sum().backward()
    shard.step()
    with shard.installed():
        module(torch.ones(1, 2)).sum().backward()
    assert set(shard.optimizer_state()) == {"layer.weight", "layer.bias"}
    given = {name: torch.full_like(tensor, 3.0) for name, tensor in state_of(module).items()}
    momentum = {"momentum_buffer": torch.ones(1, 2)}
    shard.load(given, {"layer.weight": momentum})
    assert set(shard.optimizer_state()) == {"layer.weight"}
    assert all(parameter.grad is None for parameter in shard.parameters.values())
    given["layer.weight"].zero_()
    momentum["momentum_buffer"].zero_()
    assert shard.tensors()["layer.weight"].tolist() == [[3.0, 3.0]]
    assert shard.optimizer_state()["layer.weight"]["momentum_buffer"].tolist() == [[1.0, 1.0]]


def test_an_lstm_runs_and_learns_with_a_shards_weights():
    torch.manual_seed(0)
    lstm, reference = nn.LSTM(3, 4), nn.LSTM(3, 4)
    optimizer = AdamW(lstm.parameters(), lr=0.1)
    plain = AdamW(reference.parameters(), lr=0.1)
    names = [name for name, _ in lstm.named_parameters()]
    shard = Shard(lstm, names, [], optimizer)
    shard.load(reference.state_dict(), {})
    untouched = state_of(lstm)
    for seed in range(3):
        x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed))
        with shard.installed():
            output, _ = lstm(x)
            output.square().sum().backward()
        shard.step()
        expected, _ = reference(x)
        assert torch.equal(output, expected)
        plain.zero_grad()
        expected.square().sum().backward()
        plain.step()
    assert_equal(shard.tensors(), state_of(reference))
    assert_equal(state_of(lstm), untouched)


def test_a_parameter_used_twice_is_swapped_in_both_places():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    names = [name for name, _ in module.named_parameters()]
    shard = Shard(module, names, [], SGD(module.parameters(), lr=0.1))
    shard.load({name: torch.ones_like(tensor) for name, tensor in module.named_parameters()}, {})
    with shard.installed():
        assert module[1].weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
        module(torch.ones(1, 2)).sum().backward()
    # d/dW of 1ᵀ(W(Wx + b) + b) at ones: 1·(Wx + b)ᵀ + Wᵀ1·xᵀ = 3 + 2
    assert shard.parameters["0.weight"].grad.tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert module[0].weight is module[1].weight


def test_a_shard_without_parameters_has_no_optimizer_and_still_its_buffers():
    module, optimizer, _ = make()
    shard = Shard(module, [], ["assigned"], optimizer)
    assert shard.optimizer is None
    with shard.installed():
        module(torch.ones(1, 2))
    shard.step()
    assert shard.optimizer_state() == {}
    assert shard.tensors()["assigned"].item() == 1
    assert module.assigned.item() == 0
    assert module.changed.item() == 1


def test_a_parameter_the_user_does_not_train_has_no_place_in_the_copy():
    module = Counting()
    shard = Shard(module, ["layer.weight", "layer.bias"], [], SGD([module.layer.bias], lr=1.0))
    with shard.installed():
        module(torch.ones(1, 2)).sum().backward()
    shard.step()
    assert torch.equal(shard.parameters["layer.weight"], module.layer.weight)
    assert torch.equal(shard.parameters["layer.bias"], module.layer.bias - 1)


def test_a_participants_parties_are_the_client_and_its_replica():
    module, optimizer, shard = make()
    replica = Shard(module, [], [], optimizer)
    assert Participant(client=3, shard=shard, replica=replica).parties == (shard, replica)
