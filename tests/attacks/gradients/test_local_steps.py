import copy

import pytest
import torch
from gradient_cases import SPACE, small_net, unit_images, victim_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.local_steps import LocalRound
from attacks.gradients.victim import observed
from attacks.local_optimizer import LocalOptimizer, Rule
from attacks.metrics import psnr_db

RULES = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "Nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def round_of(net, optimizer, sizes, images, labels, *, sees_state=True):
    """A round of plain training with torch's own optimizer, and an attacker's account of it."""
    names = [name for name, _ in net.named_parameters()]
    own = copy.deepcopy(net)

    def state():
        held = [optimizer.state.get(parameter, {}) for parameter in net.parameters()]
        found = [{k: v.clone() for k, v in one.items() if torch.is_tensor(v)} for one in held]
        return {name: kept for name, kept in zip(names, found, strict=True) if kept and sees_state}

    before, sent_down = [p.detach().clone() for p in net.parameters()], state()
    for part, own_labels in zip(images.split(sizes), labels.split(sizes), strict=True):
        optimizer.zero_grad()
        cross_entropy(net(SPACE.to_input(part)), own_labels).backward()
        optimizer.step()

    def loss(weights, inputs, classes, step):
        return cross_entropy(
            functional_call(own, dict(weights), (inputs.to(next(iter(weights.values())).dtype),)), classes
        )

    return LocalRound(
        loss=loss,
        before=dict(zip(names, before, strict=True)),
        after={name: p.detach().clone() for name, p in net.named_parameters()},
        rule=LocalOptimizer.of(optimizer, steps=len(sizes)),
        sizes=tuple(sizes),
        state_before=sent_down,
        state_after=state(),
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("earlier", [0, 2], ids=["fresh", "with a state"])
@settings(deadline=None, max_examples=8)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 99), graph=st.booleans())
def test_the_true_images_give_what_crossed(rule, earlier, sizes, seed, graph):
    """Law 7: of plain training with torch's own SGD in 64 bits, to rounding, whatever its momentum and where it began.

    Both what the weights moved by and the momentum that crossed are means of the steps' gradients."""
    net = small_net(seed=seed).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, **RULES[rule])
    for _ in range(earlier):
        optimizer.zero_grad()
        cross_entropy(net(SPACE.to_input(unit_images(2, seed + 1)).double()), torch.tensor([0, 1])).backward()
        optimizer.step()
    images, labels = unit_images(sum(sizes), seed).double(), torch.arange(sum(sizes)) % 5
    local = round_of(net, optimizer, sizes, images, labels)

    with torch.set_grad_enabled(graph):
        found = local.gradients(SPACE.to_input(images), labels)

    places = [name for name, _ in net.named_parameters()]
    if "momentum" in RULES[rule]:
        places += [f"{name}/momentum_buffer" for name in places]
    assert list(local.seen) == places
    assert all(tensor.requires_grad == graph for tensor in found)
    for one, other in zip(found, local.seen.values(), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_of_adam_the_first_moments_are_given_on_a_straight_line(kind):
    """From m = 0, m′ is 0.1·Σ0.9^(3-k)·g(θ_k) over the steps; on the straight line θ_k is off by less than the round
    moves, which is some η for each weight: a tenth of η brings what is simulated about 10 times nearer."""

    def apart(rate):
        net = small_net(activation=nn.Tanh).double()
        images, labels = unit_images(4).double(), torch.arange(4)
        optimizer = kind(net.parameters(), lr=rate, weight_decay=0.01)
        local = round_of(net, optimizer, [1, 1, 1, 1], images, labels)
        with torch.no_grad():
            found = local.gradients(SPACE.to_input(images), labels)
        pairs = list(zip(found, local.seen.values(), strict=True))
        return float(sum((a - b).abs().sum() for a, b in pairs) / sum(b.abs().sum() for _, b in pairs))

    near, far = apart(1e-4), apart(1e-3)
    assert near < 0.01
    assert 5 < far / near < 20


def test_adam_whose_state_does_not_cross_shows_nothing():
    net = small_net()
    local = round_of(net, torch.optim.Adam(net.parameters()), [1, 1], unit_images(2), torch.arange(2), sees_state=False)

    assert local.seen == {}


def test_momentum_that_is_dampened_away_shows_nothing_of_later_steps():
    """m′ = μm + 0·g: from a state that crossed, no gradient moves anything."""
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=1.0)
    round_of(net, optimizer, [1], unit_images(1), torch.tensor([0]))

    assert round_of(net, optimizer, [1, 1], unit_images(2), torch.arange(2)).seen == {}


def test_one_step_is_the_gradient_itself():
    images, labels = unit_images(2), torch.tensor([0, 3])
    net = small_net()
    local = round_of(net, torch.optim.SGD(net.parameters(), lr=0.5), [2], images, labels)
    found = local.gradients(SPACE.to_input(images), labels)

    for one, other in zip(found, victim_of(small_net())(SPACE.to_input(images), labels), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_mean_gradient_of_a_batch_is_taken_all_along_the_line():
    """By hand: of two steps of plain SGD half at the weights before and half in the middle of before and after."""
    net = small_net()
    local = round_of(net, torch.optim.SGD(net.parameters(), lr=0.5), [1, 1], unit_images(2), torch.tensor([1, 3]))
    images, labels = SPACE.to_input(unit_images(3, 7)), torch.tensor([0, 1, 2])

    found = local.mean_gradient(images, labels)

    middle = small_net()
    for parameter, (name, start) in zip(middle.parameters(), local.before.items(), strict=True):
        parameter.data = (start + local.after[name]) / 2
    ends = [victim_of(other)(images, labels) for other in (small_net(), middle)]
    for one, first, second in zip(found, *ends, strict=True):
        assert torch.allclose(one, (first + second) / 2, atol=1e-6)
        assert not one.requires_grad


def test_images_of_two_local_steps_come_back_from_one_update():
    """Above 35 dB, of noise, one image for each step; as if it had been one gradient of both it stays 6 dB below."""
    images, labels, net = unit_images(2), torch.tensor([1, 3]), small_net()
    attack = InvertingGradients(iterations=60, total_variation_weights=(0.001,))
    local = round_of(net, torch.optim.SGD(net.parameters(), lr=0.5), [1, 1], images, labels)
    seen = observed([tensor.float() for tensor in local.seen.values()])

    unrolled = attack.reconstruct(local.gradients, seen, labels, SPACE)
    naive = attack.reconstruct(victim_of(small_net()), seen, labels, SPACE)

    assert psnr_db(unrolled.unit_BCHW, images, 1.0).min() > 35
    assert psnr_db(unrolled.unit_BCHW, images, 1.0).mean() > psnr_db(naive.unit_BCHW, images, 1.0).mean() + 6


@pytest.mark.parametrize("images", [3, 0])
def test_images_that_do_not_fill_the_steps_are_refused(images):
    net = small_net()
    local = round_of(net, torch.optim.SGD(net.parameters(), lr=0.5), [1, 1], unit_images(2), torch.arange(2))

    with pytest.raises(ValueError, match=r"the steps hold \(1, 1\)"):
        local.gradients(unit_images(images), torch.zeros(images, dtype=torch.int64))


@pytest.mark.parametrize(
    ("sizes", "rate", "said"), [((), 0.1, "sizes"), ((1, 0), 0.1, "sizes"), ((1,), 0.0, "learning")]
)
def test_settings_that_mean_nothing_are_refused(sizes, rate, said):
    with pytest.raises(ValueError, match=f"{said}.* is not accepted"):
        LocalRound(
            loss=lambda weights, images, labels, step: images.sum(), before={}, after={},
            rule=LocalOptimizer(rule=Rule.SGD, learning_rate=rate), sizes=sizes,
        )  # fmt: skip
