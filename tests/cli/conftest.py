"""What every test of the command line needs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_cases import quick, write

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
