"""What every test of the command line needs."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_cases import quick, write

from lightning_sfl.cli import main

ENVIRONMENT = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # set by Lightning for a whole process


@pytest.fixture(autouse=True, scope="module")
def program_name() -> Iterator[None]:
    """The name of the program alone: Lightning's command line warns of arguments that it is not to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-sfl"])
        for name in ENVIRONMENT:
            patch.setenv(name, "0")
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, in which files that nobody asked for would show."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """The quick quickstart, in a file."""
    return write(tmp_path, quick())


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one quick trade-off left behind, in a working directory of its own."""
    base = tmp_path_factory.mktemp("tradeoff")
    recipe = write(base, quick())
    working = base / "here"
    working.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        patch.setattr(sys, "argv", ["lightning-sfl"])
        main(["tradeoff", "--config", recipe, "--output", str(base / "out")])
    assert list(working.iterdir()) == []  # nothing was written where nobody asked for it
    return base / "out"


@pytest.fixture(scope="session")
def figures(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document
