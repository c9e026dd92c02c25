import importlib
import subprocess
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
from recipes.llm.byte_text import ByteText

ROOT = Path(recipes.__file__).parent
RECIPES = sorted(ROOT.rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT)) for path in RECIPES]


def test_there_are_recipes():
    assert "quickstart.yaml" in NAMES


EVERY_COMMAND = ("quickstart.yaml", "cnn/hasfl_digits.yaml")
"""Recipes with and without sections for reports; all commands take a recipe by the same arguments."""


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        pytest.param(recipe, command, id=f"{name}-{command}")
        for recipe, name in zip(RECIPES, NAMES, strict=True)
        for command in (("fit", "plan", "tradeoff", "audit") if name in EVERY_COMMAND else ("fit",))
    ],
)
def test_the_command_accepts_the_recipe(recipe, command, tmp_path, monkeypatch, capsys):
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
    run = [line for line in header if line.startswith("# Run:")]
    assert len(run) == 1  # `lightning-sfl recipes NAME` repeats it
    assert f" --config {name}" in run[0]
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


@pytest.mark.slow
def test_the_language_model_trains_in_a_u_shape(tmp_path):
    """The recipe itself, cut down to 6 steps; a fresh process, as a user would run it.

    A uniform guess over 256 bytes costs ln 256 = 5.55.
    """
    changes = ["--trainer.max_epochs=1", "--data.training_windows=192", "--data.validation_windows=32"]
    command = [Path(sys.executable).parent / "lightning-sfl", "fit", "--config", str(ROOT / "llm/debug.yaml")]
    subprocess.run([*command, *changes], check=True, capture_output=True, cwd=tmp_path)
    (metrics,) = tmp_path.rglob("metrics.csv")
    rows = metrics.read_text(encoding="utf-8").splitlines()
    columns = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert float(columns["val_loss"]) < 5.2
    assert not (tmp_path / "config.yaml").exists()  # which would stop a second run


def test_text_is_windows_of_bytes_and_none_is_in_training_and_validation():
    data = ByteText(batch_size=2, length=16, training_windows=20, validation_windows=10)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape == (10, 16)
    assert batch["input_ids"].dtype == torch.int64
    assert 0 <= int(batch["input_ids"].min()) <= int(batch["input_ids"].max()) < 256
    assert torch.equal(batch["input_ids"], batch["labels"])
    assert not set(data.training.indices) & set(data.validation.indices)
    text = bytes(torch.cat([data.training[place]["input_ids"] for place in range(20)]).tolist()).decode()
    assert "assert" in text  # the first of the pages is about that statement


def test_more_windows_than_the_text_has_are_refused():
    with pytest.raises(ValueError, match="training_windows=1000000 and validation_windows=128 are more than the text"):
        ByteText(training_windows=10**6).setup("fit")


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
