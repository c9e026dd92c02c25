import pytest
import torch
from attack_cases import noise_images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.baselines import Guess, no_leak_guesses
from attacks.images import ImageSpace

SPACE = ImageSpace(shape_CHW=(1, 1, 2))
GREY, OTHER = "mid-grey", "the same attack on another client's messages"
MEAN, NEAREST = "mean of auxiliary images", "nearest auxiliary image"


def flat(*values: float) -> Tensor:
    """Images of two equal pixels, one for each value."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 1, 2)


def guessed(true, rebuilt=None, clients=(), auxiliary=None, space=SPACE) -> dict[str, Guess]:
    clients_N = torch.tensor(clients or [0] * len(true))
    made = no_leak_guesses(true, torch.zeros_like(true) if rebuilt is None else rebuilt, clients_N, auxiliary, space)
    return {guess.name: guess for guess in made}


def test_without_other_clients_and_auxiliary_images_there_is_grey():
    found = guessed(flat(0.1, 0.9, 0.3))

    assert list(found) == [GREY]
    assert torch.equal(found[GREY].unit_NCHW, flat(0.5, 0.5, 0.5))


def test_auxiliary_images_are_put_into_unit_images():
    """As the model is given them they go from −1 to 3: −1 and 3 are 0 and 1, their mean 1/2, and 2 is 3/4."""
    space = ImageSpace(shape_CHW=(1, 1, 2), low=(-1.0,), high=(3.0,))

    found = guessed(flat(0.1, 0.9), auxiliary=flat(-1.0, 3.0), space=space)

    assert list(found) == [GREY, MEAN, NEAREST]
    assert torch.equal(found[GREY].unit_NCHW, flat(0.5, 0.5))
    assert torch.equal(found[MEAN].unit_NCHW, flat(0.5, 0.5))
    assert torch.equal(found[NEAREST].unit_NCHW, flat(0.0, 1.0))
    assert torch.equal(guessed(flat(0.1), auxiliary=flat(2.0), space=space)[MEAN].unit_NCHW, flat(0.75))


def test_the_mean_is_taken_pixel_by_pixel():
    auxiliary = torch.tensor([[0.0, 1.0], [0.5, 1.0]])[:, None, None]

    assert guessed(flat(0.1), auxiliary=auxiliary)[MEAN].unit_NCHW.flatten().tolist() == [0.25, 1]


@given(records=st.integers(1, 5), auxiliary=st.integers(1, 6), seed=st.integers(0, 999))
def test_the_nearest_auxiliary_image_is_that_of_least_squared_error(records, auxiliary, seed):
    true, known = noise_images(records, 1, size=2, seed=seed), noise_images(auxiliary, 1, size=2, seed=seed + 1)

    found = guessed(true, auxiliary=known, space=ImageSpace(shape_CHW=(1, 2, 2)))[NEAREST].unit_NCHW

    for own, chosen in zip(true, found, strict=True):
        assert float((own - chosen).square().sum()) == pytest.approx(
            min(float((own - image).square().sum()) for image in known)
        )


def test_only_the_guess_that_looks_at_the_truth_says_so():
    """With other truths, all other guesses stay as they are."""
    rebuilt, clients, auxiliary = flat(0.2, 0.4), (0, 1), flat(0.0, 1.0)

    one = guessed(flat(0.1, 0.9), rebuilt, clients, auxiliary)
    other = guessed(flat(0.8, 0.3), rebuilt, clients, auxiliary)

    assert list(one) == [GREY, OTHER, MEAN, NEAREST]
    assert [name for name in one if not torch.equal(one[name].unit_NCHW, other[name].unit_NCHW)] == [NEAREST]
    assert [name for name, guess in one.items() if guess.uses_truth] == [NEAREST]


def test_of_another_client_are_the_next_clients_records_in_turn():
    """Clients 2, 5, 9 have records (a, d), (b), (c, e, f): 2 gets b twice, 5 gets c, and 9 gets a, d, a."""
    rebuilt, clients = flat(0.0, 0.1, 0.2, 0.3, 0.4, 0.5), (2, 5, 9, 2, 9, 9)  # a to f

    found = guessed(flat(*[1.0] * 6), rebuilt, clients)[OTHER].unit_NCHW[:, 0, 0, 0]

    assert found.tolist() == pytest.approx([0.1, 0.2, 0.0, 0.1, 0.3, 0.0])


@given(clients=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_of_another_client_is_never_the_own_one(clients):
    own = torch.tensor(clients, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 1, 2)

    found = guessed(torch.zeros_like(own), own, tuple(clients))

    assert (OTHER in found) == (len(set(clients)) > 1)
    if OTHER in found:
        assert bool((found[OTHER].unit_NCHW != own).all())


def test_an_attack_that_invents_has_its_inventions_for_a_guess():
    """A generator that gives every client the same picture gains nothing over what it gives for another client."""
    invented = flat(0.7, 0.7)

    assert torch.equal(guessed(flat(0.6, 0.8), invented, (0, 1))[OTHER].unit_NCHW, invented)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guesses_have_shape_and_type_of_the_records(dtype):
    true = noise_images(3).to(dtype)

    found = guessed(true, true, (0, 1, 1), noise_images(4), ImageSpace(shape_CHW=(3, 8, 8)))

    assert {(guess.unit_NCHW.shape, guess.unit_NCHW.dtype) for guess in found.values()} == {(true.shape, dtype)}
