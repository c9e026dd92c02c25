import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_cases import quick, refusal, snapshot, white_box, write

from attacks.attack import Findings
from attacks.attacker import Attacker
from attacks.reconstruction import Progress
from lightning_sfl.cli import main
from lightning_sfl.link.log import MessageLog
from recipes.cnn.digits import Digits
from recipes.cnn.small_resnet import SmallResNet


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a trade-off made by it, and a checkpoint."""
    base = tmp_path_factory.mktemp("audit")
    settings = {"trainer.enable_checkpointing": True, "trainer.default_root_dir": str(base / "run")}
    recipe = write(base, quick())
    working = base / "here"
    working.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        main(["tradeoff", "--config", recipe, "--output", str(base / "tradeoff")])
        main(["fit", "--config", write(base, quick(**settings), "fit.yaml"), "--trainer.logger", "false"])
    return base


@pytest.fixture
def recipe(base: Path) -> str:
    return str(base / "recipe.yaml")


@pytest.fixture
def checkpoint(base: Path) -> str:
    (found,) = (base / "run").rglob("*.ckpt")
    return str(found)


def log_of(base: Path, cut: str) -> str:
    return str(base / "tradeoff" / "cuts" / cut / "log")


def report_in(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def figures(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of a cut, without times, and without what depends on how many cells the report has."""
    left_out = ("cpu_s", "p_adjusted", "verdict", "reason")
    return [{key: value for key, value in cell.items() if key not in left_out} for cell in row["leakage"]["cells"]]


def test_a_log_gives_the_leakage_that_the_trade_off_reported(base, recipe, tmp_path, here, capsys):
    """Every figure of the attack can be made again from the messages and the truth that a run left behind."""
    reported = report_in(base / "tradeoff")["cuts"][1]
    before = snapshot(base / "tradeoff")

    main(["audit", "--config", recipe, "--log", log_of(base, "block2"), "--output", str(tmp_path / "out")])

    (row,) = report_in(tmp_path / "out")["cuts"]
    assert row["cut"] == "block2"
    assert figures(row) == figures(reported)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    assert snapshot(base / "tradeoff") == before
    assert list(here.iterdir()) == []


def test_a_log_alone_says_nothing_of_training(base, recipe, tmp_path, capsys):
    main(["audit", "--config", recipe, "--log", log_of(base, "block2"), "--output", str(tmp_path / "out")])

    (row,) = report_in(tmp_path / "out")["cuts"]
    assert row["accuracy"] is None
    assert row["train_wall_s"] is None
    assert row["uplink_byte_per_round"] is None


@pytest.mark.slow
def test_costs_are_the_same_whether_a_run_or_its_log_is_reported(base, recipe, tmp_path, capsys):
    reported = report_in(base / "tradeoff")["cuts"][1]

    main(["audit", "--config", recipe, "--log", log_of(base, "block2"), "--output", str(tmp_path / "out")])

    (row,) = report_in(tmp_path / "out")["cuts"]
    costs = [n for n in row if n.startswith(("client_", "smashed_")) and not n.endswith("_per_round")]
    assert len(costs) == 6
    assert {name: row[name] for name in costs} == {name: reported[name] for name in costs}


@pytest.mark.slow
def test_a_recipe_that_keeps_a_log_can_audit_it(tmp_path, here, capsys):
    """`fit` with a message log on disk, then `audit` with the very recipe."""
    log = {"class_path": "lightning_sfl.link.log.MessageLog", "init_args": {"directory": str(tmp_path / "log")}}
    recipe = write(tmp_path, quick(**{"trainer.strategy.init_args.message_log": log, "trainer.logger": False}))
    root = ("--trainer.default_root_dir", str(tmp_path / "run"))

    main(["fit", "--config", recipe, *root])
    main(["audit", "--config", recipe, "--log", str(tmp_path / "log"), "--output", str(tmp_path / "out")])

    (row,) = report_in(tmp_path / "out")["cuts"]
    assert row["cut"] == "block2"
    assert list(here.iterdir()) == []


def test_the_cut_is_that_of_the_log(base, recipe, tmp_path, capsys):
    """The recipe trains at block2; the log of the stem is attacked at the stem."""
    main(["audit", "--config", recipe, "--log", log_of(base, "stem"), "--output", str(tmp_path / "out")])

    (row,) = report_in(tmp_path / "out")["cuts"]
    assert row["cut"] == "stem"
    assert figures(row) == figures(report_in(base / "tradeoff")["cuts"][0])


def test_a_checkpoint_is_attacked_by_one_round_of_its_messages(recipe, checkpoint, tmp_path, here, capsys):
    """Its accuracy is that of the checkpoint on the very batch, not of the weights one round later."""
    model = SmallResNet.load_from_checkpoint(checkpoint).eval()
    data = Digits(batch_size=4)
    data.setup("validate")
    images, labels = next(iter(data.val_dataloader()))
    with torch.no_grad():
        accuracy = float((model(images).argmax(1) == labels).float().mean())

    main(["audit", "--config", recipe, "--ckpt_path", checkpoint, "--output", str(tmp_path / "out")])

    document = report_in(tmp_path / "out")
    (row,) = document["cuts"]
    assert row["cut"] == "block2"
    assert row["accuracy"] == pytest.approx(accuracy)
    assert row["leakage"]["cells"][0]["value"]["records"] == 8
    assert row["uplink_byte_per_round"] > 0
    assert document["settings"]["checkpoint"] == checkpoint
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_the_weights_of_the_checkpoint_are_those_attacked(recipe, checkpoint, tmp_path, capsys):
    """With other weights in the checkpoint, what is sent and rebuilt is different."""
    changed = torch.load(checkpoint, weights_only=True)
    for name, tensor in changed["state_dict"].items():
        if name.endswith("conv1.weight"):
            tensor.neg_()
    torch.save(changed, tmp_path / "changed.ckpt")

    fits = []
    for name, path in (("one", checkpoint), ("other", str(tmp_path / "changed.ckpt"))):
        main(["audit", "--config", recipe, "--ckpt_path", path, "--output", str(tmp_path / name)])
        fits.append(report_in(tmp_path / name)["cuts"][0]["leakage"]["cells"][0]["fit"])

    assert fits[0] != fits[1]


def test_a_log_with_its_checkpoint_has_leakage_and_accuracy(base, recipe, checkpoint, tmp_path, capsys):
    main(
        [
            *("audit", "--config", recipe, "--ckpt_path", checkpoint, "--log", log_of(base, "block2")),
            *("--output", str(tmp_path / "out")),
        ]
    )

    document = report_in(tmp_path / "out")
    (row,) = document["cuts"]
    assert figures(row) == figures(report_in(base / "tradeoff")["cuts"][1])
    assert row["accuracy"] is not None
    assert row["uplink_byte_per_round"] is None
    assert document["settings"]["message log"] == log_of(base, "block2")


def test_neither_checkpoint_nor_log_is_refused(recipe, tmp_path, here, capsys):
    said = refusal(["audit", "--config", recipe, "--output", str(tmp_path / "out")], capsys)

    assert "--ckpt_path" in said
    assert "--log" in said
    assert not (tmp_path / "out").exists()
    assert list(here.iterdir()) == []


def test_a_folder_that_holds_a_report_is_refused_and_left_alone(base, recipe, checkpoint, capsys):
    before = snapshot(base / "tradeoff")

    said = refusal(["audit", "--config", recipe, "--ckpt_path", checkpoint, "--output", str(base / "tradeoff")], capsys)

    assert "holds a report already" in said
    assert snapshot(base / "tradeoff") == before


def test_a_folder_without_a_log_is_refused_by_name(recipe, tmp_path, capsys):
    said = refusal(["audit", "--config", recipe, "--log", str(tmp_path), "--output", str(tmp_path / "out")], capsys)

    assert str(tmp_path) in said
    assert "no message log" in said
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_refused_by_name(recipe, tmp_path, capsys):
    missing = str(tmp_path / "missing.ckpt")

    said = refusal(["audit", "--config", recipe, "--ckpt_path", missing, "--output", str(tmp_path / "out")], capsys)

    assert missing in said
    assert not (tmp_path / "out").exists()


def test_a_log_of_another_model_is_refused_clearly(base, tmp_path, capsys):
    """The log's stem has 2 channels, the recipe's 4."""
    other = write(tmp_path, quick(**{"model.init_args.width": 4}))

    said = refusal(
        ["audit", "--config", other, "--log", log_of(base, "stem"), "--output", str(tmp_path / "out")], capsys
    )

    assert "stem.0.weight" in said
    assert MessageLog.open(log_of(base, "stem")).fingerprint() in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_audit_that_was_interrupted_goes_on_with_what_it_had_found(base, recipe, tmp_path, capsys, monkeypatch):
    """The second attack is stopped as by Ctrl-C; the same command then runs that one alone, and cleans up."""
    white, unsplit = white_box(5), {"class_path": "attacks.smashed.unsplit.UnSplit", "init_args": {"rounds": 1}}
    both = write(tmp_path, quick(**{"privacy.attacks": [white, unsplit]}))
    command = ["audit", "--config", both, "--log", log_of(base, "block2"), "--output"]
    with monkeypatch.context() as patch:
        patch.setattr("attacks.smashed.unsplit.UnSplit.run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*command, str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["findings"]
    monkeypatch.setattr("attacks.smashed.white_box.WhiteBox.run", interrupted)
    capsys.readouterr()

    main([*command, str(tmp_path / "out")])

    assert "Taken from an earlier run: white-box inversion (scale-free) at block2." in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    (row,) = report_in(tmp_path / "out")["cuts"]
    assert figures(row)[0] == figures(report_in(base / "tradeoff")["cuts"][1])[0]
    assert len(row["leakage"]["cells"]) == 2


def interrupted(self, attacker: Attacker, progress: Progress) -> Findings:
    raise KeyboardInterrupt


def test_a_log_alone_says_nothing_of_the_servers_weights(base, recipe, tmp_path, capsys):
    """Those of the freshly made model are not the ones that were trained; with the checkpoint they are known."""
    shadow = {"class_path": "attacks.smashed.shadow.Shadow", "init_args": {"steps": 1, "batch": 4}}
    shadow["init_args"]["inversion"] = {"iterations": 1}
    named = write(tmp_path, quick(**{"privacy.attacks": [shadow]}))
    checkpoint = ("--ckpt_path", str(base / "tradeoff" / "cuts" / "block2" / "model.ckpt"))
    command = ["audit", "--config", named, "--log", log_of(base, "block2"), "--output"]

    main([*command, str(tmp_path / "alone")])
    main([*command, str(tmp_path / "both"), *checkpoint])

    alone, both = (report_in(tmp_path / name)["cuts"][0]["leakage"] for name in ("alone", "both"))
    assert "server_weights, which this audit was not given" in alone["not_run"][0]["reason"]
    assert len(both["cells"]) == 1
