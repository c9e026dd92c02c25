"""Training on real photographs (CIFAR-10, exact pixels), where there are any."""

import numpy as np
import pytest
import torch
from sfl_models import RESNET, fit, same, sgd
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy


@pytest.mark.data
def test_one_client_trains_on_photographs_bit_for_bit_like_plain_lightning(data_folder):
    with np.load(data_folder / "cifar10" / "cifar10_exact_train.npz") as archive:
        pixels, labels = archive["x"][:48], archive["y"][:48]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[..., ::4, ::4].float() / 255  # (B, C, 8, 8), as the model's
    photographs = TensorDataset(images, torch.from_numpy(labels).long() % 3)
    assert images.std() > 0.1  # photographs, not blank
    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut=RESNET.cuts[1], num_clients=1)):
        module = RESNET.module(sgd)
        fit(module, DataLoader(photographs, batch_size=8, shuffle=True), strategy, max_epochs=2)
        results.append(module.state_dict())
    assert same(*results)
