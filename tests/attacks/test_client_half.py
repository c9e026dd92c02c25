import copy

import pytest
import torch
from attack_cases import TwoHalves, attackers_half, noise_images, two_halves, weights_of
from torch import nn

from attacks.client_half import ClientHalf, relative_distance
from lightning_sfl.cut.find import search


def normalised_front() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())


@pytest.fixture
def images():
    return noise_images(6)


def test_runs_the_front_in_training_mode_on_the_batch_at_hand(images):
    module = two_halves(normalised_front(), images)
    expected = copy.deepcopy(module.front).train()(images)
    module.eval()  # a trained module may come out of validation

    (smashed,) = attackers_half(module, images)({"0": images}, {})

    assert torch.equal(smashed, expected)


def test_weights_are_those_loaded_not_those_of_the_module_it_was_made_from(images):
    victim = two_halves(normalised_front(), images)
    other = copy.deepcopy(victim)
    for tensor in other.state_dict().values():
        tensor.fill_(3)
    client = attackers_half(other, images)

    client.load(weights_of(victim))

    assert torch.equal(client({"0": images}, {})[0], victim.front(images))


def test_loading_and_running_leave_the_module_as_it_was(images):
    module = two_halves(normalised_front(), images)
    before = copy.deepcopy(module.state_dict())
    client = attackers_half(module, images)

    client.load({name: torch.zeros_like(tensor) for name, tensor in weights_of(module).items()})
    client({"0": images.requires_grad_()}, {})[0].sum().backward()

    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_dropout_is_off(images):
    module = two_halves(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Dropout(0.5), nn.Dropout2d(0.5)), images)

    (smashed,) = attackers_half(module, images)({"0": images}, {})

    assert torch.equal(smashed, module.front[0](images))


def test_gradients_reach_the_guess(images):
    """The front doubles its input, so the gradient of the sum of what crosses is 2 everywhere."""
    front = nn.Conv2d(3, 3, 1, bias=False)
    front.weight.data = 2 * torch.eye(3)[:, :, None, None]
    guess = images.clone().requires_grad_()

    attackers_half(two_halves(front, images), images)({"0": guess}, {})[0].sum().backward()

    assert guess.grad is not None
    assert torch.equal(guess.grad, torch.full_like(images, 2.0))


def test_the_values_of_the_template_are_not_used(images):
    """The front adds two more private inputs, one of them without a batch dimension; unguessed, both are blank."""

    class Shifted(TwoHalves):
        def training_step(self, batch, batch_idx):
            shifted = batch["images"] + batch["each"][:, None, None, None] + batch["all"]
            return self.head(self.front(shifted)).square().sum()

    module = Shifted(nn.Conv2d(3, 2, 1), 2 * 64)
    secret = {"images": images[:2], "each": torch.tensor([5.0, 7.0]), "all": torch.tensor(3.0)}
    split = search(module, secret).cut("front").split

    (smashed,) = ClientHalf(module, split, secret)({"images": images[:2]}, {})

    assert torch.equal(smashed, module.front(images[:2]))


def test_private_inputs_are_described_for_any_number_of_records(images):
    client = attackers_half(two_halves(normalised_front(), images), images)

    assert client.private_shapes(5) == {"0": (5, 3, 8, 8)}
    assert client.private_dtypes() == {"0": torch.float32}
    assert client({"0": images[:5]}, {})[0].shape == (5, 5, 8, 8)


@pytest.mark.parametrize(("guess", "expected"), [(0.0, 1.0), (1.0, 0.25), (2.0, 0.0), (6.0, 4.0)])
def test_relative_distance_is_measured_by_what_was_sent(guess, expected):
    """(g − 2)² / 2² for a guess g of a constant 2, whatever the number of elements."""
    sent = torch.full((3, 4), 2.0)

    assert float(relative_distance([torch.full((3, 4), guess)], [sent])) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_relative_distance_is_free_of_scale(scale):
    guess, sent = noise_images(2), noise_images(2, seed=1)

    assert float(relative_distance([scale * guess], [scale * sent])) == pytest.approx(
        float(relative_distance([guess], [sent])), rel=1e-5
    )


def test_relative_distance_takes_all_crossing_tensors_together():
    """Distances 1·4 + 9·1 = 13 over norms 4·4 + 0 = 16: a tensor that is all zero does no harm beside another."""
    sent = (torch.full((4,), 2.0), torch.zeros(1))
    guess = (torch.full((4,), 1.0), torch.full((1,), 3.0))

    assert float(relative_distance(guess, sent)) == pytest.approx(13 / 16)
