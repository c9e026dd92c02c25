"""Sizes of the networks for CIFAR-10, and the cuts that the recipes name."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import recipes
from lightning_sfl import find_cuts
from recipes.cnn.cifar_networks import ResNet18, Vgg16

ROOT = Path(recipes.__file__).parent / "cnn"


@pytest.mark.parametrize(("network", "parameters", "mega_mac"), [(Vgg16, 15.245, 313.7), (ResNet18, 11.174, 555.4)])
def test_sizes_are_those_of_the_literature(network, parameters, mega_mac):
    """In millions of parameters and of multiply-accumulates for an image; a multiply-accumulate is 2 FLOP."""
    module = network()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(parameters, abs=5e-4)
    assert counter.get_total_flops() / 2e6 == pytest.approx(mega_mac, abs=0.05)


@pytest.mark.parametrize(
    ("recipe", "network"), [("hasfl_vgg16", Vgg16), ("hasfl_resnet18", ResNet18), ("asfl_resnet18", ResNet18)]
)
def test_the_recipe_names_valid_cuts(recipe, network):
    given = yaml.safe_load((ROOT / f"{recipe}.yaml").read_text(encoding="utf-8"))["trainer"]
    named = [given["strategy"]["init_args"]["cut"], *given["callbacks"][1]["init_args"]["cuts"]]
    with torch.device("meta"):
        module = network()
        batch = (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    valid = {name for cut in find_cuts(module, batch) for name in (cut.name, *cut.aliases)}
    assert set(named) <= valid
