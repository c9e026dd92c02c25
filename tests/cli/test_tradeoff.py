import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_cases import CLIENTS, quick, refusal, snapshot, white_box, without_times, write

from lightning_sfl.cli import main
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

Run = Callable[..., Path]


def last_round_records(folder: Path, cut: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """The records behind every batch of smashed data, by client and step."""
    log = MessageLog.open(folder / "cuts" / cut / "log")
    truth = log.truth()
    return {(m.client, m.step): truth[m.number].indices for m in log.messages(kinds=[MessageKind.SMASHED])}


def test_report_configuration_and_one_log_per_cut_are_left_behind(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "cuts", "report.html", "report.json"]
    assert sorted(path.name for path in (folder / "cuts").iterdir()) == ["block2", "stem"]
    for cut in ("stem", "block2"):
        log = folder / "cuts" / cut / "log"
        assert sorted(path.name for path in log.iterdir()) == ["messages", "truth"]
        assert (folder / "cuts" / cut / "metrics.csv").is_file()


def test_the_report_has_one_row_per_cut_in_the_order_named(figures):
    assert [cut["cut"] for cut in figures["cuts"]] == ["stem", "block2"]
    for cut in figures["cuts"]:
        (cell,) = cut["leakage"]["cells"]
        assert cell["value"]["records"] == 8
        assert cell["verdict"] in ("leaks", "leaks partly", "inconclusive: the attack was too weak")
        assert 0 <= cut["accuracy"] <= 1
        assert cut["train_wall_s"] > 0


def test_the_report_says_how_it_was_made(figures):
    assert figures["settings"]["model"] == "recipes.cnn.small_resnet.SmallResNet"
    assert figures["settings"]["data"] == "recipes.cnn.digits.Digits"
    assert figures["settings"]["algorithm"] == "splitfed_shared"
    assert figures["settings"]["clients"] == f"{CLIENTS}, dirichlet:0.5"
    assert figures["settings"]["seed"] == "0"
    assert figures["title"] == quick()["report"]["title"]


def test_bytes_of_a_round_are_those_that_crossed(figures):
    """Up per client: smashed data of a batch of 4, 4 labels of 8 B, and the client's half with its optimizer state; all
    clients hold more than 4 records. Stem: 2 filters of 9 weights and 2 + 2 of the normalisation are 22 weights, its
    buffers 2 · 2 · 4 + 8 = 24 B, momentum again 22 · 4 B."""
    stem = figures["cuts"][0]
    shard = 22 * 4 + 24

    assert stem["client_parameters"] == 22
    assert stem["smashed_byte_per_sample"] == 2 * 32 * 32 * 4
    assert stem["uplink_byte_per_round"] == CLIENTS * (4 * 2 * 32 * 32 * 4 + 4 * 8 + shard + 22 * 4)


def test_accuracy_is_over_the_whole_validation_set(tmp_path, capsys):
    """What is tried beforehand looks at one batch of 4; the figure is over 297 images, so 297 times it is a whole
    number, and 4 times it is none unless by chance. The saved configuration limits nothing."""
    recipe = write(tmp_path, quick(**{"trainer.limit_val_batches": None, "report.cuts": ["stem"]}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["cuts"]
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert saved["trainer"].get("limit_val_batches") is None
    assert 297 * row["accuracy"] == pytest.approx(round(297 * row["accuracy"]), abs=1e-4)
    assert 4 * row["accuracy"] != round(4 * row["accuracy"])


def test_simulated_time_and_energy_are_in_the_report(figures):
    """As the world costs a round at the cut; the deeper one sends less and computes more."""
    assert figures["settings"]["environment"] == "wei_chen, seed 0"
    for cut in figures["cuts"]:
        assert 0 < cut["simulated_s_per_round"] < 1
        assert 0 < cut["client_joule_per_round"] < 1
    stem, block2 = figures["cuts"]
    assert stem["simulated_s_per_round"] > block2["simulated_s_per_round"]


def test_without_a_monitor_nothing_is_simulated(tmp_path, capsys):
    recipe = write(tmp_path, quick(**{"trainer.callbacks": None, "report.cuts": ["stem"]}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "environment" not in found["settings"]
    assert found["cuts"][0]["simulated_s_per_round"] is None
    assert found["cuts"][0]["client_joule_per_round"] is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_smashed_bytes_are_those_that_cross_in_every_precision(tmp_path, capsys, precision):
    recipe = write(tmp_path, quick(**{"trainer.precision": precision, "report.cuts": ["stem"]}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["cuts"]
    log = MessageLog.open(tmp_path / "out" / "cuts" / "stem" / "log")
    sent = next(log.messages(kinds=[MessageKind.SMASHED]))
    assert row["smashed_byte_per_sample"] == sent.payload_bit / 8 / 4  # a batch of 4
    assert row["leakage"]["cells"][0]["value"]["records"] == 8


def test_the_html_page_shows_both_cuts(folder):
    text = (folder / "report.html").read_text()

    assert text.count("<td>stem</td>") == 2
    assert text.count("<td>block2</td>") == 2
    assert text.count("data:image/png;base64,") == 2 * 2 * 2  # two pairs per cut


def test_every_cut_was_trained_on_the_same_records_in_the_same_order(folder):
    stem, block2 = (last_round_records(folder, cut) for cut in ("stem", "block2"))

    assert len(stem) == CLIENTS
    assert all(len(indices) == 4 for indices in stem.values())
    assert stem == block2


@pytest.mark.slow
def test_the_order_is_the_same_in_later_epochs_where_the_model_draws_random_numbers(tmp_path, capsys):
    """With dropout between the two cuts, one is before its draws and the other behind them. Each client holds 500
    records, 4 batches of 128; in the second epoch it starts over, in an order drawn then."""
    changes = {
        "model.class_path": "cli_models.Dropping",
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": None,
        "trainer.strategy.init_args.partition": "iid",
        "trainer.strategy.init_args.batch_size": 128,
        "privacy.attacks": [white_box(1)],
    }

    main(["tradeoff", "--config", write(tmp_path, quick(**changes)), "--output", str(tmp_path / "out")])

    stem, block2 = (last_round_records(tmp_path / "out", cut) for cut in ("stem", "block2"))
    assert {step for _, step in stem} == {7}
    assert stem == block2


@pytest.mark.slow
def test_every_cut_started_from_the_same_weights(tmp_path, capsys):
    """In the first round of a run of one step, the stem that is broadcast is the same at both cuts."""
    recipe = write(tmp_path, quick(**{"trainer.limit_train_batches": 1}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    sent = []
    for cut in ("stem", "block2"):
        log = MessageLog.open(tmp_path / "out" / "cuts" / cut / "log")
        sent.append(next(log.messages(kinds=[MessageKind.BROADCAST])).tensors["stem.0.weight"])
    assert sent[0].equal(sent[1])


@pytest.mark.slow
def test_another_seed_draws_another_order(folder, tmp_path, capsys):
    recipe = write(tmp_path, quick(seed_everything=1, **{"report.cuts": ["stem"]}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    assert last_round_records(tmp_path / "out", "stem") != last_round_records(folder, "stem")


@pytest.mark.slow
def test_the_saved_configuration_makes_the_report_again(folder, figures, tmp_path, here, capsys):
    main(["tradeoff", "--config", str(folder / "config.yaml"), "--output", str(tmp_path / "again")])

    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert without_times(again) == without_times(figures)
    assert list(here.iterdir()) == []


def test_the_saved_configuration_is_a_recipe_like_any_other(folder, tmp_path, capsys):
    """Recipes are given after the command; the file that a trade-off leaves must be accepted there too."""
    with pytest.raises(SystemExit) as exited:
        main(["tradeoff", "--config", str(folder / "config.yaml"), "--output", "elsewhere", "--print_config"])

    assert exited.value.code == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["width"] == 2
    assert printed["report"]["cuts"] == ["stem", "block2"]


@pytest.mark.slow
def test_a_cut_does_not_depend_on_which_others_are_trained(figures, tmp_path, capsys):
    recipe = write(tmp_path, quick(**{"report.cuts": ["block2"]}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    alone = without_times(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert alone["cuts"] == without_times(figures)["cuts"][1:]


def test_a_folder_that_holds_a_report_is_refused_before_anything_is_done(folder, recipe, here, capsys):
    before = snapshot(folder)

    said = refusal(["tradeoff", "--config", recipe, "--output", str(folder)], capsys)

    assert "holds a report already" in said
    assert str(folder) in said
    assert snapshot(folder) == before
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_half_a_report_is_kept_too(recipe, tmp_path, capsys, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    before = snapshot(tmp_path / "out")

    said = refusal(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")], capsys)

    assert name in said
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("privacy", "recordz"),
        ("report", "cutz"),
        ("trainer", "max_epoch"),
        ("trainer.strategy.init_args", "num_client"),
        ("model.init_args", "widht"),
    ],
)
def test_an_unknown_key_is_named_and_nothing_is_written(tmp_path, here, capsys, section, key):
    recipe = write(tmp_path, quick(**{f"{section}.{key}": 3}))

    with pytest.raises(SystemExit) as exited:
        main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    assert exited.value.code not in (0, None)
    assert key in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"report.cuts": ["stem", "blok2"]}, ["'blok2'", "'block2'"], id="no such module"),
        pytest.param({"report.cuts": ["stem", "block1.conv1"]}, ["'block1.conv1'", "'block1'"], id="no valid cut"),
        pytest.param({"report.cuts": ["stem", "stem"]}, ["stem"], id="a cut twice"),
        pytest.param({"report.cuts": []}, ["cuts"], id="no cut at all"),
        pytest.param({"report.metric": "val_accuracy"}, ["val_accuracy", "val_acc"], id="a metric nobody logs"),
        pytest.param(
            {"trainer.strategy.init_args.cut": None, "trainer.strategy.init_args.algorithm": "fedavg"},
            ["fedavg", "cut"],
            id="an algorithm without cuts",
        ),
        pytest.param({"trainer.strategy": "auto"}, ["trainer.strategy='auto'"], id="another strategy"),
        pytest.param(
            {
                "model.class_path": "cli_models.TokenClassifier",
                "model.init_args": {},
                "data.class_path": "cli_models.Tokens",
                "data.init_args": {},
                "report.cuts": ["embedding", "hidden"],
                "trainer.strategy.init_args.partition": "iid",
            },
            ["floating images", "int64"],
            id="private text",
        ),
    ],
)
def test_what_cannot_be_reported_on_is_said_before_anything_is_trained_or_written(
    tmp_path, here, capsys, changes, words
):
    recipe = write(tmp_path, quick(**changes))

    said = refusal(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")], capsys)

    assert all(word in said for word in words)
    assert not (tmp_path / "out").exists()
    assert list(here.iterdir()) == []


def test_a_recipe_without_data_is_refused_clearly(tmp_path, capsys):
    recipe = quick()
    del recipe["data"]

    said = refusal(["tradeoff", "--config", write(tmp_path, recipe), "--output", str(tmp_path / "out")], capsys)

    assert "data" in said
    assert "positional argument" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_names_every_valid_cut_is_taken(tmp_path, capsys):
    recipe = write(tmp_path, quick(**{"report.cuts": None, "trainer.limit_train_batches": 1}))

    main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [cut["cut"] for cut in found["cuts"]] == [
        "stem.0",
        "stem.1",
        "stem",
        "block1",
        "block2",
        "block3",
        "block4",
        "pool.0",
        "pool",
        "head",
    ]


@pytest.mark.slow
def test_a_wandb_logger_receives_the_report(tmp_path, here, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "lightning-sfl-tests", "offline": True, "save_dir": str(tmp_path / "logs")},
    }
    recipe = write(tmp_path, quick(**{"trainer.logger": logger, "report.cuts": ["stem"]}))

    try:
        main(["tradeoff", "--config", recipe, "--output", str(tmp_path / "out")])
    finally:
        wandb.finish()

    tables = [json.loads(path.read_text()) for path in (tmp_path / "logs").rglob("*cuts*.table.json") if path.is_file()]
    assert len(list((tmp_path / "logs").rglob("*.wandb"))) == 1  # one run, not one per cut
    assert [row[tables[0]["columns"].index("cut")] for row in tables[0]["data"]] == ["stem"]
    assert (tmp_path / "out" / "report.json").is_file()
    assert list(here.iterdir()) == []
