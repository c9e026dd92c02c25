import copy

import pytest
import torch
from attack_cases import TwoHalves, noise_images, program_of, two_halves, weights_of
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.program import Program
from lightning_sfl.cut.find import search


def normalised_front(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())


@pytest.fixture
def images():
    return noise_images(6)


# Up to the cut


def test_runs_the_front_in_training_mode_on_the_batch_at_hand(images):
    """Batch normalisation by the batch's own statistics, though the module comes out of validation."""
    module = two_halves(normalised_front(), images)
    expected = copy.deepcopy(module.front).train()(images)
    evaluated = copy.deepcopy(module.front).eval()(images)
    module.eval()

    (smashed,) = program_of(module, images).smashed(weights_of(module), {"0": images}, {})

    assert torch.equal(smashed, expected)
    assert not torch.allclose(smashed, evaluated, atol=0.1)


def test_weights_are_those_given_not_those_of_the_module_it_was_made_from(images):
    victim, other = (two_halves(normalised_front(seed), images) for seed in (0, 1))
    program = program_of(other, images)

    for module in (victim, other, victim):
        (smashed,) = program.smashed(weights_of(module), {"0": images}, {})
        assert torch.equal(smashed, module.front(images))


def test_weights_under_one_name_are_used_wherever_the_module_uses_them(images):
    """Two layers with one weight W are the map W², under whichever name it was sent."""
    front = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    front[1].weight = front[0].weight
    module = two_halves(front, images)
    program = program_of(module, images)

    (smashed,) = program.smashed({"front.0.weight": 2 * torch.eye(3)[:, :, None, None]}, {"0": images}, {})

    assert torch.equal(smashed, 4 * images)


def test_nothing_of_the_victims_training_remains_in_it(images):
    """Trained weights and running statistics are blank: what is not given is the same whoever the victim is."""
    victims = [two_halves(normalised_front(seed), images) for seed in (0, 1)]
    for victim, shift in zip(victims, (1, 7), strict=True):
        victim.front(shift + images)

    programs = [program_of(victim, images) for victim in victims]

    one, other = ({**dict(p.module.named_parameters()), **dict(p.module.named_buffers())} for p in programs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(not parameter.any() for parameter in programs[0].module.parameters())
    assert torch.equal(programs[0].smashed({}, {"0": images}, {})[0], torch.zeros(6, 5, 8, 8))


def test_frozen_weights_are_the_programs(images):
    """They never cross where everybody has them from the beginning."""
    module = two_halves(
        nn.Sequential(nn.Conv2d(3, 4, 1).requires_grad_(requires_grad=False), nn.Conv2d(4, 2, 1)), images
    )
    trained = {name: tensor for name, tensor in weights_of(module).items() if name.startswith("front.1")}

    (smashed,) = program_of(module, images).smashed(trained, {"0": images}, {})

    assert torch.equal(smashed, module.front(images))


def test_weights_and_images_can_be_differentiated(images):
    module = two_halves(normalised_front(), images)
    weights = weights_of(module)
    for name, _ in module.front.named_parameters():
        weights[f"front.{name}"].requires_grad_()
    guess, plain = images.clone().requires_grad_(), images.clone().requires_grad_()

    program_of(module, images).smashed(weights, {"0": guess}, {})[0].square().sum().backward()
    module.front(plain).square().sum().backward()

    assert torch.allclose(guess.grad, plain.grad, atol=1e-5)
    for name, parameter in module.front.named_parameters():
        assert torch.allclose(weights[f"front.{name}"].grad, parameter.grad, atol=1e-4)


def test_gradients_are_there_where_they_are_switched_off_around_it(images):
    module = two_halves(nn.Conv2d(3, 2, 1), images)
    guess = images.clone().requires_grad_()

    with torch.no_grad():
        (smashed,) = program_of(module, images).smashed(weights_of(module), {"0": guess}, {})

    assert smashed.requires_grad


def test_making_and_running_it_leaves_everything_as_it_was(images):
    """The victim's module, the program's copy, the weights that are given (running statistics too), random numbers."""
    module = two_halves(nn.Sequential(normalised_front(), nn.Dropout(0.5)), images)
    state, given = torch.get_rng_state(), weights_of(module)
    program = program_of(module, images)
    kept = [copy.deepcopy(found) for found in (module.state_dict(), program.module.state_dict(), given)]

    program.smashed(given, {"0": images.requires_grad_()}, {})[0].sum().backward()
    program.smashed({}, {"0": images}, {})

    for before, after in zip(kept, (module.state_dict(), program.module.state_dict(), given), strict=True):
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert module.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in program.module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_changing_the_module_afterwards_does_not_change_it(images):
    module = two_halves(nn.Conv2d(3, 2, 1).requires_grad_(requires_grad=False), images)
    expected = module.front(images)
    program = program_of(module, images)

    module.front.weight.data.zero_()

    assert torch.equal(program.smashed({}, {"0": images}, {})[0], expected)


def test_dropout_is_off(images):
    module = two_halves(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Dropout(0.5), nn.Dropout2d(0.5)), images)

    (smashed,) = program_of(module, images).smashed(weights_of(module), {"0": images}, {})

    assert torch.equal(smashed, module.front[0](images))


def test_weights_and_images_of_another_precision_are_run_in_the_modules(images):
    module = two_halves(nn.Conv2d(3, 2, 1), images)
    weights = {name: tensor.double() for name, tensor in weights_of(module).items()}

    (smashed,) = program_of(module, images).smashed(weights, {"0": images.double()}, {})

    assert smashed.dtype == torch.float32
    assert torch.equal(smashed, module.front(images))


def test_the_values_of_the_template_are_not_used(images):
    """The front adds two more private inputs, one of them without a batch dimension; unguessed, both are blank."""

    class Shifted(TwoHalves):
        def training_step(self, batch, batch_idx):
            shifted = batch["images"] + batch["each"][:, None, None, None] + batch["all"]
            return self.head(self.front(shifted)).square().sum()

    module = Shifted(nn.Conv2d(3, 2, 1), 2 * 64)
    secret = {"images": images[:2], "each": torch.tensor([5.0, 7.0]), "all": torch.tensor(3.0)}
    split = search(module, secret).cut("front").split

    program = Program(module, split, secret)

    (smashed,) = program.smashed(weights_of(module), {"images": images}, {})
    assert torch.equal(smashed, module.front(images))
    with pytest.raises(
        ValueError, match=r"one private input of floating images.*'images' \(6, 3, 8, 8\).*'each' \(6,\)"
    ):
        program.image_input(6)


# The whole model


@pytest.mark.parametrize("cut", ["front", None])
def test_the_loss_is_that_of_a_training_step_and_can_be_differentiated(images, cut):
    module = two_halves(normalised_front(), images)
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trained = {name: weights[name].requires_grad_() for name, _ in module.named_parameters()}
    guess = images.clone().requires_grad_()

    loss = program_of(module, images, cut).loss(weights, {"0": guess}, {"1": labels})
    found = torch.autograd.grad(loss, [*trained.values()], create_graph=True)
    sum(gradient.square().sum() for gradient in found).backward()  # as attacks on gradients do

    plain = cross_entropy(module.head(module.front(images)), labels)
    expected = torch.autograd.grad(plain, list(module.parameters()))
    assert torch.equal(loss, plain)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert guess.grad is not None
    assert guess.grad.any()


def test_labels_that_are_not_given_are_blank(images):
    module = two_halves(nn.Conv2d(3, 2, 1), images)

    loss = program_of(module, images, None).loss(module.state_dict(), {"0": images}, {})

    assert torch.equal(loss, cross_entropy(module.head(module.front(images)), torch.zeros(6, dtype=torch.int64)))


def test_without_a_cut_every_floating_input_is_private(images):
    module = two_halves(nn.Conv2d(3, 2, 1), images)

    assert program_of(module, images, None).private == ("0",)
    assert program_of(module, images).private == ("0",)


# What is looked at


def test_the_private_image_is_described_for_any_number_of_records(images):
    program = program_of(two_halves(normalised_front(), images), images)

    assert program.image_input(5) == ("0", (5, 3, 8, 8), torch.float32)
    assert program.smashed({}, {"0": images[:5]}, {})[0].shape == (5, 5, 8, 8)


class TokenNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 6)
        self.head = nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.head(self.embedding(batch["input_ids"]).mean(1)), batch["labels"])


def token_program(cut: str | None) -> Program:
    batch = {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "labels": torch.zeros(2, dtype=torch.int64)}
    module = TokenNet()
    return Program(module, None if cut is None else search(module, batch).cut(cut).split, batch)


@pytest.mark.parametrize(("cut", "found"), [("embedding", r"'input_ids' \(4, 5\) torch.int64"), (None, "none")])
def test_a_private_input_that_is_no_image_is_named(cut, found):
    with pytest.raises(ValueError, match=f"one private input of floating images.*are {found}"):
        token_program(cut).image_input(4)


def test_the_classes_are_found_by_their_type(images):
    assert program_of(two_halves(nn.Conv2d(3, 2, 1), images), images).label_input() == "1"
    assert token_program("embedding").label_input() == "labels"


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"soft": torch.zeros(2, 4)}, "none"),
        ({"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(2, dtype=torch.int64)}, "'a', 'b'"),
    ],
)
def test_labels_that_are_not_one_class_per_record_are_named(labels, found):
    class Summed(nn.Module):
        def training_step(self, batch, batch_idx):
            return sum(tensor.sum() for tensor in batch.values())

    with pytest.raises(ValueError, match=f"one batch tensor of classes.*this batch has {found}"):
        Program(Summed(), None, {"images": torch.zeros(2, 3, 8, 8), **labels}).label_input()


def test_parameters_are_told_from_buffers_in_the_order_asked(images):
    program = program_of(two_halves(normalised_front(), images), images)

    names = ("front.1.running_mean", "front.1.weight", "nothing", "front.0.weight", "front.1.num_batches_tracked")

    assert program.trainable(names) == ("front.1.weight", "front.0.weight")


def test_the_weights_of_this_model_pass(images):
    module = two_halves(normalised_front(), images)
    program = program_of(module, images)

    program.check(weights_of(module))
    program.check(module.state_dict())
    program.check({})


def test_weights_of_another_model_are_refused_by_name_and_shape(images):
    program = program_of(two_halves(normalised_front(), images), images)

    with pytest.raises(ValueError, match=r"another model: 'stem.weight' of shape \(2,\) was sent, which is not in the"):
        program.check({"stem.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"'front.0.bias' of shape \(7,\) was sent, which is of shape \(5,\)"):
        program.check({"front.0.bias": torch.zeros(7)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(images, value):
    program = program_of(two_halves(normalised_front(), images), images)

    with pytest.raises(ValueError, match="victim's weights are not all finite: 'front.0.bias'"):
        program.check({"front.0.bias": torch.tensor([0, 0, value, 0, 0])})
