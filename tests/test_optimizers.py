import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from lightning_sfl.link.message import Message, MessageKind
from lightning_sfl.optimizers import (
    check_optimizer,
    clone_state,
    copy_optimizer,
    follow_groups,
    mean_state,
    mean_tensor,
    pack_states,
    unpack_states,
)

SHAPES = [(3, 2), (3,), (), (1, 3)]
MAKERS = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adam, two groups": lambda p: Adam(
        [{"params": p[:1], "lr": 0.1}, {"params": p[1:], "betas": (0.5, 0.6), "amsgrad": True}], lr=0.01
    ),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.5),
    "nadam": lambda p: NAdam(p, lr=0.01, weight_decay=0.1),
}


def make_parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def own_of(parameters):
    return {parameter: nn.Parameter(parameter.detach().clone()) for parameter in parameters}


def give_gradients(parameters, own, seed):
    """The same gradients to both; none to the last parameter in the first step."""
    draw = torch.Generator().manual_seed(seed)
    for place, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=draw)
        if seed == 0 and place == len(parameters) - 1:
            continue
        parameter.grad = gradient.clone()
        own[parameter].grad = gradient.clone()


def assert_same_state(state, other):
    assert state.keys() == other.keys()
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key


@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_steps_bit_for_bit_like_the_original_under_a_scheduler(name):
    parameters = make_parameters()
    own = own_of(parameters)
    optimizer = MAKERS[name](parameters)
    scheduler = ExponentialLR(optimizer, gamma=0.7)
    copied = copy_optimizer(optimizer, own)
    for parameter in parameters:  # Adagrad makes its state when it is made; a party is given it with the weights
        if optimizer.state.get(parameter):
            copied.state[own[parameter]] = clone_state(optimizer.state[parameter])
    for step in range(6):
        give_gradients(parameters, own, step)
        optimizer.step()
        follow_groups(optimizer, copied, own)
        copied.step()
        scheduler.step()
        for parameter in parameters:
            assert torch.equal(own[parameter], parameter)
            assert_same_state(optimizer.state.get(parameter, {}), copied.state.get(own[parameter], {}))
    assert len(copied.state) == len(parameters)


@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_steps_its_own_parameters_and_nothing_else(name):
    """A scheduler binds `step` on the original's instance; taken along, it would step the original."""
    parameters = make_parameters()
    own = own_of(parameters)
    optimizer = MAKERS[name](parameters)
    ExponentialLR(optimizer, gamma=0.7)
    give_gradients(parameters, own, 1)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in parameters]
    state_before = {parameter: clone_state(state) for parameter, state in optimizer.state.items()}
    copied = copy_optimizer(optimizer, own)
    assert type(copied) is type(optimizer)
    assert len(copied.state) == 0
    for parameter in parameters:
        copied.state[own[parameter]] = clone_state(optimizer.state[parameter])
    own_before = [own[parameter].detach().clone() for parameter in parameters]
    copied.step()
    for place, parameter in enumerate(parameters):
        assert torch.equal(parameter, before[place])
        assert_same_state(optimizer.state[parameter], state_before[parameter])
        assert not torch.equal(own[parameter], own_before[place])


def test_attributes_of_a_users_subclass_come_along():
    class Sign(Optimizer):
        """A user's own optimizer whose __init__ no one else could call."""

        def __init__(self, module, *, factor):
            super().__init__(module.parameters(), {"lr": 0.5})
            self.factor = factor

        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data -= self.factor * group["lr"] * parameter.grad.sign()

    module = nn.Linear(2, 1, bias=False)
    optimizer = Sign(module, factor=4)
    own = own_of(module.parameters())
    mine = own[module.weight]
    before = mine.detach().clone()
    mine.grad = torch.tensor([[3.0, -3.0]])
    copied = copy_optimizer(optimizer, own)
    copied.step()
    assert copied.factor == 4
    assert torch.equal(mine.detach(), before - torch.tensor([[2.0, -2.0]]))


def test_groups_keep_their_order_and_parameters_outside_are_left_out():
    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = SGD([{"params": [first], "lr": 1.0}, {"params": [second, third], "lr": 2.0}], lr=0.1, momentum=0.5)
    own = own_of([third])
    copied = copy_optimizer(optimizer, own)
    assert [group["lr"] for group in copied.param_groups] == [2.0]
    assert copied.param_groups[0]["momentum"] == 0.5
    assert [parameter is own[third] for parameter in copied.param_groups[0]["params"]] == [True]
    assert optimizer.param_groups[1]["params"][0] is second


def test_without_a_parameter_to_step_there_is_no_copy():
    assert copy_optimizer(SGD([nn.Parameter(torch.ones(1))], lr=1.0), own_of([nn.Parameter(torch.ones(1))])) is None


def test_a_copy_follows_every_value_a_scheduler_sets_in_its_own_groups():
    parameters = make_parameters()
    optimizer = SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.1, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=[1.0, 2.0], total_steps=10)
    own = own_of(parameters[1:])
    copied = copy_optimizer(optimizer, own)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert copied.param_groups[0]["lr"] != optimizer.param_groups[1]["lr"]
    follow_groups(optimizer, copied, own)
    assert copied.param_groups[0]["lr"] == optimizer.param_groups[1]["lr"] != optimizer.param_groups[0]["lr"]
    assert copied.param_groups[0]["momentum"] == optimizer.param_groups[1]["momentum"] != 0.9
    followed = zip(copied.param_groups[0]["params"], parameters[1:], strict=True)
    assert all(mine is own[parameter] for mine, parameter in followed)


def test_lbfgs_is_refused():
    with pytest.raises(ValueError, match=r"configure_optimizers returned LBFGS, which calls the whole model several"):
        check_optimizer(LBFGS([nn.Parameter(torch.ones(1))]))


def test_an_optimizer_around_another_is_refused():
    class Lookahead(Optimizer):
        def __init__(self, inner):
            super().__init__(inner.param_groups, {})
            self.inner = inner

    inner = SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    with pytest.raises(ValueError, match=r"returned Lookahead, which wraps another optimizer \(inner=SGD\).*inner opt"):
        check_optimizer(Lookahead(inner))


@pytest.mark.parametrize("name", MAKERS)
def test_ordinary_optimizers_are_accepted_with_a_scheduler_too(name):
    optimizer = MAKERS[name](make_parameters())
    ExponentialLR(optimizer, gamma=0.7)
    assert check_optimizer(optimizer) is None


# Means


def test_floating_tensors_and_numbers_are_averaged():
    """0.25 · 4 + 0.75 · 8 = 7, element by element."""
    states = [{"a": torch.tensor([4.0, 0.0]), "b": 4.0}, {"a": torch.tensor([8.0, 4.0]), "b": 8.0}]
    mean = mean_state(states, [0.25, 0.75])
    assert mean["a"].tolist() == [7.0, 3.0]
    assert mean["b"] == 7.0


def test_equal_scalars_are_kept_exactly_where_a_mean_would_drift():
    """3 and 0.3, each ten times with weight 0.1, do not add up to themselves in floating point."""
    weights = [0.1] * 10
    step, one = torch.tensor(3.0), torch.tensor([3.0])
    assert not torch.equal(mean_tensor([step] * 10, weights), step)
    assert sum(0.3 * weight for weight in weights) != 0.3
    mean = mean_state([{"step": step, "one": one, "number": 0.3}] * 10, weights)
    assert torch.equal(mean["step"], step)
    assert torch.equal(mean["one"], one)
    assert mean["number"] == 0.3


def test_integers_take_the_maximum_and_booleans_any():
    states = [
        {"count": 3, "tensor": torch.tensor([1, 9]), "flags": torch.tensor([True, False, False])},
        {"count": 5, "tensor": torch.tensor([7, 2]), "flags": torch.tensor([False, False, True])},
        {"count": 4, "tensor": torch.tensor([0, 3]), "flags": torch.tensor([False, False, False])},
    ]
    mean = mean_state(states, [0.5, 0.25, 0.25])
    assert mean["count"] == 5
    assert type(mean["count"]) is int
    assert mean["tensor"].tolist() == [7, 9]
    assert mean["flags"].tolist() == [True, False, True]


def test_none_stays_none_and_lists_go_part_by_part():
    states = [
        {"nothing": None, "list": [torch.tensor([0.0]), 2, None], "pair": (1.0, 2.0), "flag": True},
        {"nothing": None, "list": [torch.tensor([4.0]), 3, None], "pair": (3.0, 2.0), "flag": True},
    ]
    mean = mean_state(states, [0.5, 0.5])
    assert mean["nothing"] is None
    assert_same(mean["list"], [torch.tensor([2.0]), 3, None])
    assert mean["pair"] == (2.0, 2.0)
    assert mean["flag"] is True


def test_a_party_without_state_counts_with_nothing():
    """The weights of those that stepped, 0.2 and 0.6, become 1/4 and 3/4: 0.25 · 4 + 0.75 · 8 = 7."""
    mean = mean_state([{"a": torch.tensor([4.0, 4.0])}, {}, {"a": torch.tensor([8.0, 8.0])}], [0.2, 0.2, 0.6])
    torch.testing.assert_close(mean["a"], torch.tensor([7.0, 7.0]))
    assert mean_state([{}, {}], [0.5, 0.5]) == {}


@given(
    bits=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int32]),
)
def test_the_mean_of_one_tensor_is_an_exact_copy(bits, dtype):
    """Every bit pattern that is a number comes through, negative zero and infinities included."""
    tensor = torch.tensor(bits, dtype=torch.int32).view(dtype)
    tensor = torch.where(tensor.isnan(), torch.zeros_like(tensor), tensor)
    for keep_equal in (False, True):
        mean = mean_tensor([tensor], [1.0], keep_equal=keep_equal)
        assert mean.dtype is dtype
        assert torch.equal(mean.view(torch.uint8), tensor.view(torch.uint8))
        assert mean.data_ptr() != tensor.data_ptr()


@given(
    values=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=5),
    samples=st.lists(st.integers(1, 100), min_size=5, max_size=5),
)
def test_the_mean_of_tensors_is_the_weighted_sum(values, samples):
    total = sum(samples[: len(values)])
    weights = [count / total for count in samples[: len(values)]]
    tensors = [torch.tensor(each, dtype=torch.float64) for each in values]
    before = [tensor.clone() for tensor in tensors]
    mean = mean_tensor(tensors, weights)
    for place in range(3):
        expected = math.fsum(weight * each[place] for weight, each in zip(weights, values, strict=True))
        assert mean[place].item() == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))


def test_a_mean_shares_no_memory_with_what_it_is_made_of():
    state = {"a": torch.ones(2), "step": torch.tensor(1.0), "count": torch.tensor([1, 2])}
    mean = mean_state([state], [1.0])
    for value in mean.values():
        value.zero_()
    assert state["a"].tolist() == [1.0, 1.0]
    assert state["step"].item() == 1.0
    assert state["count"].tolist() == [1, 2]


def test_a_cloned_state_shares_nothing():
    state = {"a": torch.ones(2), "list": [torch.ones(1)], "number": 3}
    cloned = clone_state(state)
    cloned["a"].zero_()
    cloned["list"][0].zero_()
    assert state["a"].tolist() == [1.0, 1.0]
    assert state["list"][0].tolist() == [1.0]
    assert cloned["number"] == 3


# Packing

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8)
NUMBERS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.none())
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
)
LEAVES = st.one_of(NUMBERS, TENSORS)
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=3), st.tuples(LEAVES, st.lists(LEAVES, max_size=2)))
STATES = st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4)


def assert_same(value, other):
    assert type(value) is type(other)
    if isinstance(value, torch.Tensor):
        assert value.dtype is other.dtype
        assert torch.equal(value, other)
    elif isinstance(value, dict):
        assert list(value) == list(other)
        for key in value:
            assert_same(value[key], other[key])
    elif isinstance(value, list | tuple):
        for part, same in zip(value, other, strict=True):
            assert_same(part, same)
    else:
        assert value == other


@given(states=STATES)
def test_packed_states_come_back_as_they_were_from_the_wire_too(states):
    packed = pack_states(states)
    assert_same(unpack_states(packed, states), states)
    message = Message(
        number=0,
        kind=MessageKind.OPTIMIZER_STATE,
        sender="client/0",
        receiver="fed_server",
        round=0,
        step=0,
        cut=None,
        tensors=packed,
    )
    assert_same(unpack_states(Message.from_bytes(message.to_bytes()).tensors, states), states)


def test_numbers_are_packed_as_single_64_bit_elements_and_none_is_left_out():
    packed = pack_states({"w": {"step": 3, "rate": 0.5, "none": None, "parts": [1, torch.ones(2)]}})
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in packed.items()} == {
        "w/step": (torch.int64, ()),
        "w/rate": (torch.float64, ()),
        "w/parts/0": (torch.int64, ()),
        "w/parts/1": (torch.float32, (2,)),
    }


def test_a_state_that_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match=r"keeps a dict in its state \(layer\.weight/cache\).*tensors, numbers, None"):
        pack_states({"layer.weight": {"cache": {"a": 1}}})
