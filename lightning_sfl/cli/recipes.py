"""`lightning-sfl recipes`: list the configurations that come along, and copy them."""

import argparse
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def recipes_command(args: list[str]) -> None:
    """List the recipes, or copy one."""
    found = dict(_find(resources.files("recipes"), ""))
    parser = argparse.ArgumentParser(
        prog="lightning-sfl recipes", description="List the recipes, or copy one to change it."
    )
    parser.add_argument("name", nargs="?", help=f"recipe to copy: {', '.join(found)}")
    parser.add_argument("--output", type=Path, help="file to write it to; NAME.yaml in this folder if left out")
    chosen = parser.parse_args(args)
    if chosen.name is None:
        for name, recipe in found.items():
            print(f"{name:24} {_purpose(recipe.read_text(encoding='utf-8'))}")
        return
    if chosen.name not in found:
        parser.error(f"name={chosen.name!r} is no recipe; there are {', '.join(map(repr, found))}.")
    target: Path = chosen.output or Path(chosen.name.rpartition("/")[2] + ".yaml")
    if target.exists():
        parser.error(f"output={str(target)!r} exists already; give another file with --output.")
    if not target.parent.is_dir():
        parser.error(f"output={str(target)!r}: there is no folder {str(target.parent)!r}.")
    text = found[chosen.name].read_text(encoding="utf-8")
    target.write_text(text, encoding="utf-8")
    print(f"Wrote {target}. Run it with: {_command(text).replace(f'recipes/{chosen.name}.yaml', str(target))}")


def _find(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _find(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            found.append((prefix + entry.name.removesuffix(".yaml"), entry))
    return found


def _purpose(text: str) -> str:
    """The first comment line of a recipe."""
    return text.splitlines()[0].lstrip("# ")


def _command(text: str) -> str:
    """The first command that a recipe's header names."""
    return next(line.partition("Run:")[2].strip() for line in text.splitlines() if line.startswith("# Run:"))
