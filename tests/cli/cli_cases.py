"""Running the command line in this process, on quick versions of the quickstart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import recipes
from lightning_sfl.cli import main

QUICKSTART = Path(recipes.__file__).parent / "quickstart.yaml"
CLIENTS = 3


def white_box(iterations: int) -> dict[str, Any]:
    """The attack, with so few iterations."""
    return {"class_path": "attacks.smashed.white_box.WhiteBox", "init_args": {"iterations": iterations}}


def quick(**changes: Any) -> dict[str, Any]:
    """The quickstart, cut down to seconds: few clients, two steps, five iterations; dotted keys change it."""
    recipe: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    settings: dict[str, Any] = {
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.limit_val_batches": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.strategy.init_args.num_clients": CLIENTS,
        "model.init_args.width": 2,
        "data.init_args.batch_size": 4,
        "report.cuts": ["stem", "block2"],
        "privacy.records": 8,
        "privacy.pictures": 2,
        "privacy.attacks": [white_box(5)],
    }
    for key, value in {**settings, **changes}.items():
        *path, last = key.split(".")
        place = recipe
        for name in path:
            place = place[name]
        place[last] = value
    return recipe


def write(folder: Path, recipe: Mapping[str, Any], name: str = "recipe.yaml") -> str:
    """Write a recipe to a file and return its name."""
    path = folder / name
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
    return str(path)


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return what it says: an error raised, or an exit with a message."""
    capsys.readouterr()
    with pytest.raises((Exception, SystemExit)) as refused:
        main(args)
    if not isinstance(refused.value, SystemExit):
        return f"{refused.typename}: {refused.value}"
    assert refused.value.code not in (0, None)
    return capsys.readouterr().err


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and its bytes; folders with nothing in them count too."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report that a second run must give again."""
    cuts = []
    for cut in document["cuts"]:
        cells = [{name: value for name, value in cell.items() if name != "cpu_s"} for cell in cut["leakage"]["cells"]]
        cuts.append({**cut, "train_wall_s": None, "leakage": {**cut["leakage"], "wall_s": None, "cells": cells}})
    return {**{name: value for name, value in document.items() if name != "created"}, "cuts": cuts}
