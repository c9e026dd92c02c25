"""The recipes of allocation policies: what they decide, and the short versions that their headers name."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

import recipes
from lightning_sfl.cli import main

ROOT = Path(recipes.__file__).parent / "cnn"


@pytest.fixture(autouse=True)
def program_name(monkeypatch, tmp_path):
    """Lightning's command line warns of arguments that it is not to read; a run writes where it is."""
    monkeypatch.setattr(sys, "argv", ["lightning-sfl"])
    monkeypatch.chdir(tmp_path)


def decisions(arguments: list[str], folder: Path) -> list[dict[str, str]]:
    """The table of decisions that a fit leaves behind."""
    main(["fit", *arguments, "--trainer.enable_progress_bar=false"])
    (path,) = folder.rglob("decisions.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def short_version(recipe: str) -> list[str]:
    """The arguments of the command on a part of CIFAR-10: the indented lines of the header."""
    lines = (ROOT / recipe).read_text(encoding="utf-8").splitlines()
    command = " ".join(line.removeprefix("#").strip() for line in lines if re.match("# {8}", line))
    return shlex.split(command)[2:]


@pytest.mark.parametrize("recipe", ["hasfl_vgg16.yaml", "hasfl_resnet18.yaml"])
def test_the_short_version_in_the_header_is_accepted(recipe, tmp_path, capsys):
    arguments = short_version(recipe)
    assert arguments[:2] == ["--config", f"recipes/cnn/{recipe}"]
    (tmp_path / "recipes").symlink_to(ROOT.parent)

    with pytest.raises(SystemExit) as exited:
        main(["fit", *arguments, "--print_config"])

    assert exited.value.code == 0, capsys.readouterr().err
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["partial"] is True


@pytest.mark.slow
@pytest.mark.data
def test_a_short_version_runs(data_folder, tmp_path):
    """Two rounds of three steps: a decision after each."""
    (tmp_path / "recipes").symlink_to(ROOT.parent)
    given = [str(data_folder / "cifar10") if part == "FOLDER" else part for part in short_version("asfl_resnet18.yaml")]
    rows = decisions(given, tmp_path)

    assert [(row["round"], row["clients"]) for row in rows] == [("1", "3"), ("2", "3")]


@pytest.mark.slow
def test_asfl_moves_cuts_clocks_and_powers(tmp_path):
    """Three rounds. The first one, at 625 MHz and 2 W, overdrew the energy; the third decision knows that it was slow
    since then."""
    rows = decisions(["--config", str(ROOT / "asfl_digits.yaml"), "--trainer.max_epochs=1"], tmp_path)

    assert len({row["cuts"] for row in rows}) > 1
    for row in rows:
        watt, megahertz = re.match(r"\S+ to (\S+) W, \S+ to (\S+) MHz clock", row["controls"]).groups()
        assert float(watt) < 0.1
        assert float(megahertz) < 400


@pytest.mark.slow
def test_sflam_decides_on_bits_powers_and_parts_of_the_band(tmp_path):
    """8 bits err by 1/(4 · 255²) = 3.8e-6 of the squared range, 7 by 1.6e-5; 4e-6 is allowed. 50 MHz are shared."""
    rows = decisions(["--config", str(ROOT / "sflam_digits.yaml"), "--trainer.max_epochs=1"], tmp_path)

    assert {row["bits"] for row in rows} == {"5 × 8"}
    assert {row["cuts"] for row in rows} == {"5 × model.conv_proj"}
    low, high = re.search(r"(\S+) to (\S+) MHz band", rows[0]["controls"]).groups()
    assert 0 < float(low) < 10 < float(high) < 50
