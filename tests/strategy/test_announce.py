"""What a fit warns of when it starts: last batches of one sample under batch normalisation."""

import pytest
import torch
from sfl_models import MLP, VGG, Classifier, fit, sgd
from torch import nn

from lightning_sfl import SplitFederatedStrategy

WARNING = r"The last batch of 2 clients \(client 0, 2\) has a single sample.*Give the loader drop_last=True"


def normalised() -> Classifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    return Classifier(model, sgd)


def strategy(*sizes) -> SplitFederatedStrategy:
    """Clients of these sizes, in batches of 2."""
    parts, start = [], 0
    for size in sizes:
        parts.append(list(range(start, start + size)))
        start += size
    return SplitFederatedStrategy(cut="model.1", num_clients=len(sizes), partition=parts)


def test_a_last_batch_of_one_sample_is_warned_of_with_the_clients_named():
    """Clients of 3, 4 and 5 samples in batches of 2: the first and the last are left with one, the first in step 1.

    The warning comes with step 0 already, and torch refuses step 1.
    """
    with pytest.warns(UserWarning, match=WARNING):
        fit(normalised(), MLP.loader(12, 2), strategy(3, 4, 5), max_epochs=1, max_steps=1)
    with pytest.warns(UserWarning, match=WARNING), pytest.raises(ValueError, match="more than 1 value per channel"):
        fit(normalised(), MLP.loader(12, 2), strategy(3, 4, 5), max_epochs=1)


@pytest.mark.parametrize("sizes", [(3,), (4, 6)], ids=["one client", "no single sample"])
def test_one_client_and_even_clients_are_not_warned_of(sizes):
    """One client's batches are the plain run's, of which Lightning does not warn either."""
    options = {"max_steps": 1, "max_epochs": 1}
    fit(normalised(), MLP.loader(sum(sizes), 2), strategy(*sizes), **options)


def test_a_loader_that_drops_the_last_batch_is_not_warned_of():
    trainer = fit(normalised(), MLP.loader(12, 2, drop_last=True), strategy(3, 4, 5), max_epochs=1)
    assert trainer.global_step > 0


def test_normalisation_over_images_is_not_warned_of():
    """It has the places of an image to go by, and takes a single sample."""
    fit(VGG.module(sgd), VGG.loader(12, 2), strategy(3, 4, 5), max_epochs=1)
