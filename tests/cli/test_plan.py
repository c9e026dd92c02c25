import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_cases import QUICKSTART, quick, refusal, write

from lightning_sfl.cli import main
from lightning_sfl.cut.find import find_cuts
from recipes.cnn.small_resnet import SmallResNet

CUTS = ["stem.0", "stem.1", "stem", "block1", "block2", "block3", "block4", "pool.0", "pool", "head"]


def rows(printed: str) -> dict[str, str]:
    """The lines of the table by cut."""
    lines = [line.split() for line in printed.splitlines()]
    return {line[0]: " ".join(line[1:]) for line in lines if line and line[0] in CUTS}


def plan_in(path: Path) -> list[dict[str, Any]]:
    """The cuts of a plan that was written to a file."""
    cuts: list[dict[str, Any]] = json.loads(path.read_text())["cuts"]
    return cuts


def test_every_valid_cut_is_printed_with_its_costs_and_nothing_is_written(recipe, here, capsys):
    main(["plan", "--config", recipe])

    printed = rows(capsys.readouterr().out)
    assert list(printed) == CUTS
    assert printed["block1"].startswith("2x32x32 8.0 KiB 102 ")
    assert printed["block2"].startswith("* P 4x16x16 4.0 KiB ")  # the default
    assert list(here.iterdir()) == []


def test_the_costs_of_the_first_convolution(tmp_path, capsys):
    """Quickstart, stem.0: 8 filters of 3x3 on 32x32 places are 73,728 MAC = 147.5 kFLOP and 72 weights; per sample 8 ·
    1024 · 4 B = 32 KiB. Memory at batch 8: weights, gradients and momentum 3 · 288 B, and 8 times an image of 4 KiB, a
    label of 8 B, the smashed data and the cut gradient: 544.9 KiB."""
    main(["plan", "--config", str(QUICKSTART)])

    assert rows(capsys.readouterr().out)["stem.0"].startswith("P 8x32x32 32.0 KiB 72 147.5 k 147.5 k 544.9 KiB ")


def test_json_holds_the_same_cuts_unrounded(recipe, tmp_path, here, capsys):
    target = tmp_path / "plan.json"

    main(["plan", "--config", recipe, "--json", str(target)])

    found = plan_in(target)
    expected = find_cuts(SmallResNet(width=2), (torch.rand(4, 1, 32, 32), torch.arange(4)))
    assert [entry["cut"] for entry in found] == CUTS == [cut.name for cut in expected]
    assert [entry["client_parameters"] for entry in found] == [cut.client_parameters for cut in expected]
    assert [entry["smashed_byte_per_sample"] for entry in found] == [cut.smashed_byte_per_sample for cut in expected]
    assert [entry["cut"] for entry in found if entry["default"]] == ["block2"]
    assert all(entry["crossing"] == {"1": "label"} for entry in found)
    assert all(entry["batch_size"] == 4 for entry in found)
    assert list(here.iterdir()) == []


def test_memory_is_that_of_the_clients_batch(tmp_path, capsys):
    """From batch 4 to 8, stem.0 holds 4 more images of 4 KiB with labels of 8 B; each makes smashed data of 2 · 1024 ·
    4 B = 8 KiB, and their gradient."""
    found = []
    for size in (4, 8):
        target = tmp_path / f"{size}.json"
        recipe = write(tmp_path, quick(**{"trainer.strategy.init_args.batch_size": size}))
        main(["plan", "--config", recipe, "--json", str(target)])
        found.append(plan_in(target)[0])

    assert [entry["batch_size"] for entry in found] == [4, 8]
    small, large = (entry["client_training_memory_byte"] for entry in found)
    assert large - small == 4 * (4096 + 8 + 2 * 8192)


def test_an_existing_json_file_is_refused_and_kept(recipe, tmp_path, capsys):
    target = tmp_path / "plan.json"
    target.write_text("mine")

    said = refusal(["plan", "--config", recipe, "--json", str(target)], capsys)

    assert "plan.json" in said
    assert "exists already" in said
    assert target.read_text() == "mine"


def test_a_recipe_without_data_is_refused_clearly(tmp_path, capsys):
    recipe = quick()
    del recipe["data"]

    said = refusal(["plan", "--config", write(tmp_path, recipe)], capsys)

    assert "data" in said
    assert "positional argument" not in said


def test_another_strategy_is_refused_by_name(tmp_path, capsys):
    recipe = quick(**{"trainer.strategy": "auto"})

    said = refusal(["plan", "--config", write(tmp_path, recipe)], capsys)

    assert "trainer.strategy='auto'" in said
    assert "SplitFederatedStrategy" in said


def test_a_u_shape_is_planned_for_its_first_cuts(tmp_path, capsys):
    """What lies before block2, with the client's part behind it; labels stay with the client. The images of block2 are
    4 x 16 x 16 floats."""
    recipe = write(tmp_path, quick(**{"trainer.strategy.init_args.cut": ["stem", "block2"]}))
    target = tmp_path / "plan.json"

    main(["plan", "--config", recipe, "--json", str(target)])

    found = json.loads(target.read_text())["cuts"]
    assert [entry["cut"] for entry in found] == CUTS[: CUTS.index("block2")]
    assert {entry["second_cut"] for entry in found} == {"block2"}
    assert {entry["returned_byte_per_sample"] for entry in found} == {4 * 16 * 16 * 4}
    assert all(entry["client_turn_flop_per_sample"] > 0 for entry in found)
    assert all(entry["crossing"] == {} for entry in found)
    printed = capsys.readouterr().out
    assert "second part" in printed
    assert "from 'block2' on (4.0 KiB per sample down, its gradient up)" in " ".join(printed.split())


def test_the_registered_name_of_the_strategy_will_do(tmp_path, capsys):
    recipe = quick(**{"trainer.strategy": "split_federated"})

    main(["plan", "--config", write(tmp_path, recipe)])

    assert list(rows(capsys.readouterr().out)) == CUTS


def test_what_an_input_or_mask_gives_away_is_listed(tmp_path, capsys):
    """A head that looks at the images again lets them cross; the plan must say so, where it is allowed at all."""
    recipe = quick(
        **{
            "model.class_path": "cli_models.LooksAgain",
            "model.init_args": {},
            "trainer.strategy.init_args.server_inputs": ["0"],
            "trainer.strategy.init_args.cut": None,
        }
    )
    target = tmp_path / "plan.json"

    main(["plan", "--config", write(tmp_path, recipe), "--json", str(target)])

    crossing = {entry["cut"]: entry["crossing"] for entry in plan_in(target)}
    assert crossing["stem"] == {"0": "input", "1": "label"}
    assert "0 (input)" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["needs a trainer", "several groups"])
def test_the_table_says_where_the_optimizers_state_is_not_counted(tmp_path, capsys, optimizer):
    model = {"needs a trainer": "cli_models.NeedsTrainer", "several groups": "cli_models.Grouped"}[optimizer]

    main(["plan", "--config", write(tmp_path, quick(**{"model.class_path": model}))])

    said = "Optimizer state is not in the memory" in " ".join(capsys.readouterr().out.split())
    assert said == (optimizer == "needs a trainer")
