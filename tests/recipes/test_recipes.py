import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import recipes
from lightning_sfl.cli import main
from recipes.cnn.digits import Digits
from recipes.cnn.small_resnet import SmallResNet

ROOT = Path(recipes.__file__).parent
RECIPES = sorted(ROOT.rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT)) for path in RECIPES]


def test_there_are_recipes():
    assert "quickstart.yaml" in NAMES


@pytest.mark.parametrize("command", ["fit", "plan", "tradeoff", "audit"])
@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_every_command_accepts_the_recipe(recipe, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-sfl"])
    monkeypatch.chdir(tmp_path)
    output = ["--output", "out"] if command in ("tradeoff", "audit") else []

    with pytest.raises(SystemExit) as exited:
        main([command, "--config", str(recipe), *output, "--print_config"])

    assert exited.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert printed["model"]["class_path"] == given["model"]["class_path"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_header_names_purpose_and_commands(recipe):
    lines = recipe.read_text(encoding="utf-8").splitlines()
    header = lines[: next(place for place, line in enumerate(lines) if not line.startswith("#"))]

    name = f"recipes/{recipe.relative_to(ROOT)}"
    assert len(header[0]) > 20  # a sentence, which `lightning-sfl recipes` lists
    assert "lightning-sfl" not in header[0]
    assert any(f"lightning-sfl tradeoff --config {name} --output " in line for line in header)
    assert any(f"lightning-sfl fit --config {name}" in line for line in header)


def class_paths(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "class_path" in value:
            yield value["class_path"]
        for part in value.values():
            yield from class_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from class_paths(part)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_every_class_that_is_named_can_be_imported(recipe):
    found = list(class_paths(yaml.safe_load(recipe.read_text(encoding="utf-8"))))

    assert len(found) >= 3  # strategy, model and data
    for path in found:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_model_and_data_of_the_recipe_explain_themselves(recipe):
    for path in class_paths(yaml.safe_load(recipe.read_text(encoding="utf-8"))):
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name).__doc__


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup("fit")
    return data


def test_digits_are_images_from_0_to_1_with_labels(digits):
    images, labels = next(iter(digits.train_dataloader()))

    assert images.shape == (16, 1, 32, 32)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    for records in (digits.training, digits.validation):
        assert float(records.tensors[0].min()) == 0
        assert float(records.tensors[0].max()) == 1
        assert sorted(set(records.tensors[1].tolist())) == list(range(10))


def test_no_digit_is_in_training_and_validation(digits):
    """The 1,797 images are all different, so together they must be 1,797 again."""
    both = torch.cat([digits.training.tensors[0], digits.validation.tensors[0]])

    assert len(digits.training) == 1500
    assert len(digits.validation) == 297
    assert len(torch.unique(both.flatten(1), dim=0)) == 1797


def test_digits_are_split_the_same_way_every_time(digits):
    torch.manual_seed(123)
    again = Digits()
    again.setup("fit")

    assert torch.equal(again.validation.tensors[0], digits.validation.tensors[0])


def test_the_small_resnet_halves_the_image_from_block_to_block():
    model = SmallResNet(channels=3, width=4, num_classes=7)
    images = torch.rand(2, 3, 32, 32)

    h = model.stem(images)
    shapes = []
    for block in (model.block1, model.block2, model.block3, model.block4):
        h = block(h)
        shapes.append(tuple(h.shape[1:]))

    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert model(images).shape == (2, 7)
