"""The leakage of clients that run forward only, in every command: of what crosses the cut, and of their scalars."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_cases import quick, refusal, white_box, write

from lightning_sfl.cli import main

WHITE_BOX, INVERTING, LIKELIHOOD = "white-box inversion (scale-free)", "inverting scalars", "candidates by scalars"
ONE_STEP = {"class_path": "attacks.scalars.inverting.InvertingScalars", "init_args": {"iterations": 1}}
ATTACKS = [white_box(40), ONE_STEP, "scalar_likelihood"]


def settings(algorithm: str) -> dict[str, Any]:
    return quick(
        **{
            "trainer.strategy.init_args.algorithm": algorithm,
            "trainer.enable_checkpointing": True,
            "report.cuts": ["stem"],
            "privacy.attacks": ATTACKS,
            "data.init_args.batch_size": 1,
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of HO-SFL and a trade-off made by it."""
    base = tmp_path_factory.mktemp("forward_only")
    recipe = write(base, settings("ho_sfl"))
    main(["tradeoff", "--config", recipe, "--output", str(base / "tradeoff")])
    return base


def cells_in(folder: Path) -> dict[str, dict[str, Any]]:
    (row,) = json.loads((folder / "report.json").read_text())["cuts"]
    return {cell["attack"]: cell for cell in row["leakage"]["cells"]}


def figures(cells: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in cell.items() if key != "cpu_s"} for name, cell in cells.items()}


@pytest.mark.slow
def test_a_trade_off_attacks_smashed_data_and_scalars(base):
    cells = cells_in(base / "tradeoff")
    print({k: (c["value"], c["control"], c["verdict"], c["cpu_s"]) for k, c in cells.items()})

    assert set(cells) == {WHITE_BOX, INVERTING, LIKELIHOOD}
    assert cells[WHITE_BOX]["value"]["mean"] > 20


@pytest.mark.slow
def test_the_log_and_the_weights_beside_it_give_the_same_cells(base, tmp_path, capsys):
    cut = base / "tradeoff" / "cuts" / "stem"
    args = ["--log", str(cut / "log"), "--ckpt_path", str(cut / "weights.ckpt"), "--output", str(tmp_path / "out")]

    main(["audit", "--config", str(base / "recipe.yaml"), *args])

    assert figures(cells_in(tmp_path / "out")) == figures(cells_in(base / "tradeoff"))


@pytest.mark.slow
def test_a_log_alone_says_what_to_give(base, tmp_path, capsys):
    log = base / "tradeoff" / "cuts" / "stem" / "log"

    main(["audit", "--config", str(base / "recipe.yaml"), "--log", str(log), "--output", str(tmp_path / "out")])

    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["cuts"]
    assert row["leakage"]["cells"] == []
    assert len(row["leakage"]["not_run"]) == 3
    assert all("--ckpt_path" in left["reason"] for left in row["leakage"]["not_run"])


@pytest.mark.slow
def test_a_checkpoint_of_another_step_is_refused_by_its_step(base, tmp_path, capsys):
    """That of the end of training begins step 2, and the log's newest is step 1."""
    cut = base / "tradeoff" / "cuts" / "stem"
    (last,) = cut.rglob("epoch*.ckpt")
    args = ["--log", str(cut / "log"), "--ckpt_path", str(last), "--output", str(tmp_path / "out")]

    said = refusal(["audit", "--config", str(base / "recipe.yaml"), *args], capsys)

    assert "step 2 begins with its weights, and the log holds steps 1 to 1" in said
