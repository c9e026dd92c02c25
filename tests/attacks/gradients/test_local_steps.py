import pytest
import torch
from gradient_cases import SPACE, small_net, unit_images, victim_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.local_steps import LocalSGD, of_local_steps, update_seen
from attacks.metrics import psnr_db


def sent(net, local, images, labels, passes=1):
    """θ′ − θ of plain training with torch's own SGD."""
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(
        net.parameters(), lr=local.learning_rate, momentum=local.momentum, weight_decay=local.weight_decay
    )
    for _ in range(passes):
        for part, own in zip(images.chunk(local.steps), labels.chunk(local.steps), strict=True):
            optimizer.zero_grad()
            cross_entropy(net(SPACE.to_input(part)), own).backward()
            optimizer.step()
    return tuple(after.detach() - start for after, start in zip(net.parameters(), before, strict=True))


@settings(deadline=None, max_examples=15)
@given(
    steps=st.integers(1, 4), records=st.integers(1, 3), passes=st.integers(1, 2),
    momentum=st.sampled_from([0.0, 0.9]), decay=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 99),
    graph=st.booleans(),
)  # fmt: skip
def test_the_simulated_update_is_that_of_plain_training(steps, records, passes, momentum, decay, seed, graph):
    local = LocalSGD(steps=steps, learning_rate=0.2, momentum=momentum, weight_decay=decay)
    images, labels = unit_images(steps * records, seed), torch.arange(steps * records) % 5
    victim = of_local_steps(small_net(seed=seed), cross_entropy, local, passes)

    with torch.set_grad_enabled(graph):
        found = victim(SPACE.to_input(images), labels)

    seen = update_seen(sent(small_net(seed=seed), local, images, labels, passes), local, passes)
    assert all(tensor.requires_grad == graph for tensor in found)
    for one, other in zip(found, seen, strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def test_one_step_is_the_gradient_itself():
    images, labels = unit_images(2), torch.tensor([0, 3])
    once = of_local_steps(small_net(), cross_entropy, LocalSGD(steps=1, learning_rate=0.5))

    for one, other in zip(once(images, labels), victim_of(small_net())(images, labels), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_images_of_two_local_steps_come_back_from_one_update():
    """Above 35 dB, of noise, one image for each step; as if it had been one gradient of both it stays 6 dB below."""
    local, images, labels = LocalSGD(steps=2, learning_rate=0.5), unit_images(2), torch.tensor([1, 3])
    attack = InvertingGradients(iterations=60, total_variation_weights=(0.001,))
    seen = update_seen(sent(small_net(), local, images, labels), local)

    unrolled = attack.reconstruct(of_local_steps(small_net(), cross_entropy, local), seen, labels, SPACE)
    naive = attack.reconstruct(victim_of(small_net()), seen, labels, SPACE)

    assert psnr_db(unrolled.unit_BCHW, images, 1.0).min() > 35
    assert psnr_db(unrolled.unit_BCHW, images, 1.0).mean() > psnr_db(naive.unit_BCHW, images, 1.0).mean() + 6


@pytest.mark.parametrize("images", [3, 0])
def test_images_that_do_not_fill_the_steps_are_refused(images):
    victim = of_local_steps(small_net(), cross_entropy, LocalSGD(steps=2, learning_rate=0.5))

    with pytest.raises(ValueError, match="2 steps take equally"):
        victim(unit_images(images), torch.zeros(images + (images == 0), dtype=torch.int64))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("learning_rate", 0.0), ("momentum", 1.0), ("weight_decay", -1.0)]
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} is not accepted"):
        LocalSGD(**{"steps": 1, "learning_rate": 0.1, field: value})
