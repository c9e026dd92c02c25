import copy
import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from attacks.local_optimizer import LocalOptimizer, Rule
from lightning_sfl.optimizers import pack_states

PLAIN_SGD = st.fixed_dictionaries({"lr": st.floats(1e-3, 1), "weight_decay": st.sampled_from([0.0, 1e-3, 0.1])})
MOMENTUM = st.fixed_dictionaries(
    {"lr": st.floats(1e-3, 1), "momentum": st.floats(0.1, 0.95), "weight_decay": st.sampled_from([0.0, 0.1])}
)
DAMPENED = st.builds(lambda options, dampening: {**options, "dampening": dampening}, MOMENTUM, st.floats(0, 0.9))
NESTEROV = MOMENTUM.map(lambda options: {**options, "nesterov": True})
ADAM = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-3, 1),
        "betas": st.tuples(st.floats(0, 0.95), st.just(0.99)),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "amsgrad": st.booleans(),
    }
)
CASES = st.one_of(
    st.tuples(st.just(SGD), st.one_of(PLAIN_SGD, MOMENTUM, DAMPENED, NESTEROV)),
    st.tuples(st.sampled_from([Adam, AdamW]), ADAM),
    st.tuples(st.just(Adam), ADAM.map(lambda options: {**options, "decoupled_weight_decay": True})),
)


@dataclasses.dataclass
class Step:
    """One step of a parameter, as it crosses."""

    before: Tensor
    after: Tensor
    state_before: dict[str, Tensor] | None
    state_after: dict[str, Tensor] | None
    gradient: Tensor
    optimizer: Optimizer

    def read(self, **options) -> Tensor | None:
        rule = LocalOptimizer.of(self.optimizer, **options)
        assert rule is not None
        return rule.gradient(self.before, self.after, self.state_before, self.state_after)

    def without_states(self) -> "Step":
        return dataclasses.replace(self, state_before=None, state_after=None)


def crossed(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor] | None:
    """One parameter's state as messages carry it; None where it has none, for then nothing is sent."""
    packed = pack_states({"w": copy.deepcopy(dict(optimizer.state.get(parameter, {})))})
    return {name.removeprefix("w/"): tensor for name, tensor in packed.items()} or None


def steps_of(kind: type[Optimizer], options: dict, count: int, dtype: torch.dtype = torch.float64) -> list[Step]:
    draw = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(3, 2, generator=draw, dtype=dtype))
    optimizer = kind([parameter], **options)
    taken = []
    for _ in range(count):
        before, state_before = parameter.detach().clone(), crossed(optimizer, parameter)
        parameter.grad = torch.randn(3, 2, generator=draw, dtype=dtype)
        gradient = parameter.grad.clone()
        optimizer.step()
        state_after = crossed(optimizer, parameter)
        taken.append(Step(before, parameter.detach().clone(), state_before, state_after, gradient, optimizer))
    return taken


@settings(max_examples=30)
@given(case=CASES)
@example(case=(SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}))
@example(case=(SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}))
@example(case=(Adam, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}))
@example(case=(Adam, {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}))
@example(case=(AdamW, {"lr": 0.1, "weight_decay": 0.1}))
def test_the_very_gradient_comes_back_from_the_first_and_from_later_steps(case):
    """In float64, ε = 2⁻⁵². Read off a step: (θ − θ')/η carries an error of ε·|θ|/η ≤ 2e-16·50/1e-3 = 1e-11.

    Read off states: (m' − μm)/(1 − d) carries ε·(|m'| + |m|)/0.05, which is less. Weights stay below 50 in 4 steps.
    """
    for step in steps_of(*case, count=4):
        found = step.read()

        assert found is not None
        assert found.dtype == torch.float64
        assert torch.allclose(found, step.gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SGD, {"lr": 0.1}),
        (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (Adam, {"lr": 1e-3, "weight_decay": 0.01}),
        (AdamW, {"lr": 1e-3}),
    ],
)
def test_in_single_precision_it_comes_back_to_rounding(kind, options):
    """ε = 2⁻²³: off a step of 0.1, ε·|θ|/η = 1.2e-7·3/0.1 = 4e-6; off states, ε·(|m'| + |m|)/(1 − 0.9) ≤ 1.2e-7·40.

    Twice that for the additions in between.
    """
    for step in steps_of(kind, options, count=3, dtype=torch.float32):
        found = step.read()

        assert found is not None
        assert torch.allclose(found, step.gradient.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_first_step_of_momentum_is_read_without_a_state(nesterov):
    """Clients that forget their state at the end of a round send none; every round's only step is a first one."""
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01}
    first, second = steps_of(SGD, options, count=2)

    found = first.without_states().read()

    assert found is not None
    assert torch.allclose(found, first.gradient, atol=1e-12)
    wrong = second.without_states().read()
    assert wrong is not None
    assert not torch.allclose(wrong, second.gradient, atol=0.1)


def test_clients_that_keep_their_state_show_no_gradient_in_their_momentum():
    """Regression: nothing crosses of a kept state either, and a later step was read as if it were a first one."""
    _, second = steps_of(SGD, {"lr": 0.1, "momentum": 0.9}, count=2)

    assert second.without_states().read(keeps_state=True) is None
    _, plain = steps_of(SGD, {"lr": 0.1}, count=2)
    assert torch.allclose(plain.read(keeps_state=True), plain.gradient, atol=1e-12)


def test_a_state_that_was_sent_down_and_not_up_is_not_taken_for_a_first_step():
    _, second = steps_of(SGD, {"lr": 0.1, "momentum": 0.9}, count=2)

    assert dataclasses.replace(second, state_after=None).read() is None


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_step_of_adam_says_nothing_without_its_state(kind):
    """The first step is η·sign(g) nearly, whatever the size of g."""
    assert steps_of(kind, {"lr": 0.1}, count=1)[0].without_states().read() is None


def test_several_steps_show_no_single_gradient():
    (step,) = steps_of(SGD, {"lr": 0.1}, count=1)

    assert step.read(steps=1) is not None
    assert step.read(steps=2) is None


def test_a_step_of_length_zero_shows_nothing():
    """Regression: at the beginning of a warm-up η = 0, and (θ − θ')/η was 0/0. Momentum that crosses still tells."""
    (step,) = steps_of(SGD, {"lr": 0.0}, count=1)
    _, with_momentum = steps_of(SGD, {"lr": 0.0, "momentum": 0.9}, count=2)

    assert step.read() is None
    assert torch.allclose(with_momentum.read(), with_momentum.gradient, atol=1e-12)


def test_momentum_that_is_dampened_away_shows_the_first_gradient_only():
    """Regression: with d = 1, m' = μm for good after m' = g, and (m' − μm)/(1 − d) was 0/0."""
    first, second = steps_of(SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 1.0}, count=2)

    assert torch.allclose(first.read(), first.gradient)
    assert second.read() is None


def test_adam_that_decays_weights_themselves_is_adamw():
    """Regression: decoupled decay never enters the momentum, so nothing is to be taken off."""
    parameter = nn.Parameter(torch.ones(1))

    found = LocalOptimizer.of(Adam([parameter], weight_decay=0.1, decoupled_weight_decay=True))

    assert found is not None
    assert found.rule is Rule.ADAMW


def test_hyper_parameters_are_those_of_the_groups():
    parameters = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
    optimizer = SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], 0.5, 0.25, 0.125, 0.0625)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.3  # as a scheduler does

    assert LocalOptimizer.of(optimizer, steps=3) == LocalOptimizer(
        rule=Rule.SGD, learning_rate=0.3, momentum=0.25, dampening=0.125, weight_decay=0.0625, steps=3
    )
    assert LocalOptimizer.of(AdamW(parameters, lr=0.2, betas=(0.7, 0.9), weight_decay=0.5)) == LocalOptimizer(
        rule=Rule.ADAMW, learning_rate=0.2, momentum=0.7, weight_decay=0.5
    )


class OwnSGD(SGD):
    """Steps by a rule of its own, for all that anybody knows."""


@pytest.mark.parametrize(
    "make",
    [
        lambda own: SGD(own, lr=0.1, maximize=True),
        lambda own: AdamW(own, lr=0.1, maximize=True),
        lambda own: OwnSGD(own, lr=0.1),
        lambda own: torch.optim.RMSprop(own, lr=0.1),
        lambda own: torch.optim.Adagrad(own, lr=0.1),
        lambda own: SGD([{"params": own[:1], "lr": 0.2}, {"params": own[1:]}], lr=0.1),
        lambda own: Adam([{"params": own[:1], "weight_decay": 0.2}, {"params": own[1:]}], lr=0.1),
    ],
    ids=["maximize", "maximize AdamW", "subclass", "RMSprop", "Adagrad", "rates differ", "decays differ"],
)
def test_steps_that_cannot_be_read_are_not_guessed(make):
    assert LocalOptimizer.of(make([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))])) is None
