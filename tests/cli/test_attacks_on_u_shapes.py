"""`tradeoff` and `audit` where clients compute the loss: a second cut behind each first one."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_cases import quick, refusal, write

from lightning_sfl.cli import main

U_SHAPE = {"trainer.strategy.init_args.cut": ["stem", "block2"]}
ATTACKS = {"privacy.attacks": ["gradient_direction", "every_class"]}
"""An exact one, and one that needs known labels."""
NOTE = "A U-shape: what is behind 'block2' is the client's again, which computes the loss."


def quick_attacks(**changes: Any) -> dict[str, Any]:
    return quick(**{**ATTACKS, **changes})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trade-off of two U-shapes, and one of a single cut."""
    base = tmp_path_factory.mktemp("u_shapes")
    recipes = {
        "u": quick_attacks(**U_SHAPE, **{"report.cuts": ["stem", "block1"]}),
        "single": quick_attacks(**{"report.cuts": ["stem"]}),
    }
    for name, recipe in recipes.items():
        main(["tradeoff", "--config", write(base, recipe, f"{name}.yaml"), "--output", str(base / name)])
    return base


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())["cuts"]
    return found


def values(row: dict[str, Any]) -> dict[str, float]:
    return {cell["attack"]: cell["value"]["mean"] for cell in row["leakage"]["cells"]}


@pytest.mark.slow
def test_the_first_cuts_are_traded_off_and_the_second_stays(base):
    found = rows(base / "u")

    assert [row["cut"] for row in found] == ["stem", "block1"]
    assert [row["leakage"]["notes"] for row in found] == [[NOTE]] * 2
    assert all(values(row)["every class tried"] == 1 for row in found)
    assert found[0]["client_parameters"] < found[1]["client_parameters"]


@pytest.mark.slow
def test_a_u_shape_is_not_the_single_cut_at_its_first(base):
    """The client holds its end too, and no label crosses."""
    (u, *_), (single,) = rows(base / "u"), rows(base / "single")

    assert u["client_parameters"] > single["client_parameters"]
    assert single["leakage"]["notes"][0].startswith("Labels cross in clear")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["u", "single"])
@pytest.mark.parametrize("log", ["u", "single"])
def test_a_log_says_itself_whether_there_is_a_second_cut(base, recipe, log, tmp_path, capsys):
    """The recipe's own cuts give way to the log's, as single ones do."""
    folder = base / log / "cuts" / "stem"
    given = ["--config", str(base / f"{recipe}.yaml"), "--ckpt_path", str(folder / "model.ckpt")]

    main(["audit", *given, "--log", str(folder / "log"), "--output", str(tmp_path / "out")])

    (found,) = rows(tmp_path / "out")
    expected = rows(base / log)[0]
    assert values(found) == values(expected)
    assert found["leakage"]["notes"] == expected["leakage"]["notes"]
    assert found["client_parameters"] == expected["client_parameters"]


def test_a_last_cut_that_is_none_is_refused_before_anything_is_trained(tmp_path, capsys):
    recipe = write(tmp_path, quick_attacks(**{"trainer.strategy.init_args.cut": ["stem", "blok2"]}))

    said = refusal(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")], capsys)

    assert "'blok2'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_is_attacked_by_a_round_of_its_u_shape(base, tmp_path, capsys):
    settings = {
        "trainer.enable_checkpointing": True,
        "trainer.logger": False,
        "trainer.default_root_dir": str(tmp_path / "run"),
    }
    fit = write(tmp_path, quick_attacks(**U_SHAPE, **settings), "fit.yaml")
    main(["fit", "--config", fit])
    (checkpoint,) = (tmp_path / "run").rglob("*.ckpt")

    recipe = str(base / "u.yaml")
    main(["audit", "--config", recipe, "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out")])

    (found,) = rows(tmp_path / "out")
    assert found["leakage"]["notes"] == [NOTE]
    assert values(found)["every class tried"] == 1
