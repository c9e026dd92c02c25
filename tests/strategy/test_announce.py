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


def test_the_effective_batch_is_that_of_the_clients_own_batch_sizes(caplog):
    """Clients of 4, 6 and 2 samples by 2, 3 and 5: 2 + 3 + 2 = 7, two of three per round: 14/3; 12/(14/3) steps."""
    sizes = {4: 2, 6: 3, 2: 5}
    loaders = {client: MLP.loader(size, sizes[size]) for client, size in enumerate(sizes)}
    own = SplitFederatedStrategy(cut="model.1", num_clients=3, clients_per_round=2, partition=loaders)
    with caplog.at_level("INFO", "lightning.pytorch"):
        fit(normalised(), loaders[0], own, max_steps=1, max_epochs=1)
    assert "with 2 to 6 samples; effective batch 4.66667, 3 steps per epoch." in caplog.text
    assert "1 clients hold fewer samples than a batch of 5; they use all they have." in caplog.text
