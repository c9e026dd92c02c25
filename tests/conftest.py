"""Settings that every test shares."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two cores are shared by the workers of pytest-xdist; more threads only wait for each other.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

# Examples train models: they are few, take as long as they need, and are the same on every machine.
settings.register_profile(
    "default", max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


@pytest.fixture
def data_folder() -> Path:
    """The folder with real data sets; tests that need it carry the marker `data`.

    The sets may not be shipped, so who has none runs everything else; CI has them, and runs these tests too.
    """
    folder = os.environ.get("LIGHTNING_SFL_DATA")
    if folder is None:
        pytest.skip("LIGHTNING_SFL_DATA is not set")
    return Path(folder)
