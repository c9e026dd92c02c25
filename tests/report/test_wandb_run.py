import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import (
    COLOUR,
    GREY,
    cell,
    decision,
    interval,
    labels_cell,
    leakage,
    policy_row,
    report,
    row,
    weak_cell,
    weak_row,
)

from lightning_sfl.report.leakage import Picture
from lightning_sfl.report.wandb_run import log_to_wandb

wandb = pytest.importorskip("wandb")


class FakeRun:
    """Keeps what is logged; the tables, plots and pictures in it are wandb's own."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []

    def log(self, data: dict[str, Any]) -> None:
        self.logged.append(data)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def logged() -> FakeRun:
    run = FakeRun()
    log_to_wandb(report(row("stem"), weak_row("head")), run)
    return run


def test_everything_is_logged_at_once(logged):
    assert [sorted(data) for data in logged.logged] == [
        ["report/cuts", "report/leakage", "report/pictures", "report/tradeoff"]
    ]


def rows_of(table: Any) -> list[dict[str, Any]]:
    assert isinstance(table, wandb.Table)
    return [dict(zip(table.columns, values, strict=True)) for values in table.data]


def test_the_table_of_cuts_has_all_costs_and_the_strongest_attack(logged):
    assert rows_of(logged.logged[0]["report/cuts"])[0] == {
        "cut": "stem",
        "val_acc": 0.875,
        "client_forward_flop_per_sample": 2_500_000.0,
        "client_backward_flop_per_sample": 4_900_000.0,
        "client_parameters": 1272,
        "client_parameter_byte": 5088,
        "client_training_memory_byte": 1_572_864,
        "smashed_byte_per_sample": 32768.0,
        "uplink_byte_per_round": 2_629_840.0,
        "downlink_byte_per_round": 2_628_026.5,
        "simulated_s_per_round": 0.25,
        "client_joule_per_round": None,
        "train_wall_s": 12.5,
        "policy": None,
        "strongest_attack": "white box",
        "psnr_db": 31.25,
        "psnr_db_low": 30.5,
        "psnr_db_high": 32.0,
        "baseline_psnr_db": 9.75,
        "gain_db": 21.5,
        "gain_db_low": 20.0,
        "gain_db_high": 23.0,
        "verdict": "leaks",
    }


def test_the_table_of_leakage_has_one_row_per_cell():
    run = FakeRun()

    log_to_wandb(report(row("stem", leakage=leakage(cell(), labels_cell())), weak_row("head")), run)

    strong, labels, weak = rows_of(run.logged[0]["report/leakage"])
    assert strong == {
        "cut": "stem",
        "attack": "white box",
        "recovers": "images",
        "measure": "PSNR (dB)",
        "value": 31.25,
        "value_low": 30.5,
        "value_high": 32.0,
        "baseline": "mid-grey",
        "baseline_value": 9.75,
        "gain": 21.5,
        "gain_low": 20.0,
        "gain_high": 23.0,
        "p_value": 0.002,
        "p_adjusted": 0.014,
        "worst_record": 41.5,
        "threshold": 20.0,
        "share_recovered": 0.625,
        "control": 97.5,
        "control_needed": 40.0,
        "records": 16,
        "clients": 4,
        "parties": "both servers, malicious server",
        "budget": "400 iterations",
        "cpu_s": 3.25,
        "verdict": "leaks",
        "reason": "It beats mid-grey, and at least one record passes 20.",
        "SSIM": 0.91,
        "SSIM_low": 0.88,
        "SSIM_high": 0.93,
    }
    assert [labels[name] for name in ("cut", "measure", "value", "control", "SSIM")] == [
        "stem",
        "labels right",
        0.75,
        None,
        None,
    ]
    assert [weak[name] for name in ("cut", "attack")] == ["head", "decoder"]


def test_decisions_of_a_policy_are_a_table():
    run = FakeRun()
    log_to_wandb(report(row("stem"), policy_row(decision(), decision(round=2))), run)

    (logged,) = run.logged
    assert rows_of(logged["report/decisions"]) == [
        dataclasses.asdict(decision()),
        dataclasses.asdict(decision(round=2)),
    ]
    assert [found["policy"] for found in rows_of(logged["report/cuts"])] == [None, "HASFL"]


def test_only_the_strongest_attacks_on_images_are_points_of_the_plot(monkeypatch):
    drawn = {}
    monkeypatch.setattr(wandb.plot, "scatter", lambda table, x, y, title: drawn.update(table=table, x=x, y=y))
    several = leakage(weak_cell(), labels_cell(gain=interval(99.0, 98.0, 100.0)), cell())

    log_to_wandb(
        report(row("stem", leakage=several), row("none", leakage=None), row("labels", leakage=leakage(labels_cell()))),
        FakeRun(),
    )

    assert rows_of(drawn["table"]) == [
        {"cut": "stem", "attack": "white box", "smashed_byte_per_sample": 32768.0, "psnr_db": 31.25}
    ]
    assert (drawn["x"], drawn["y"]) == ("smashed_byte_per_sample", "psnr_db")


def test_unknown_values_are_left_empty(logged):
    weak = rows_of(logged.logged[0]["report/cuts"])[1]

    assert weak["cut"] == "head"
    assert weak["val_acc"] is None
    assert weak["train_wall_s"] is None
    assert weak["verdict"] == "inconclusive: the attack was too weak"


def test_bounds_that_there_are_not_are_left_empty():
    run = FakeRun()
    lone = cell(value=interval(31.25, None, None, records=1, clients=1))

    log_to_wandb(report(row("stem", leakage=leakage(lone))), run)

    for table, name in (("report/cuts", "psnr_db"), ("report/leakage", "value")):
        (found,) = rows_of(run.logged[0][table])
        assert [found[name], found[f"{name}_low"], found[f"{name}_high"]] == [31.25, None, None]


def test_a_cut_without_attacks_on_images_has_its_costs_alone():
    run = FakeRun()

    log_to_wandb(report(row("stem", leakage=None), row("head")), run)
    log_to_wandb(report(row("stem", leakage=leakage(labels_cell()))), run)

    bare = rows_of(run.logged[0]["report/cuts"])[0]
    assert [bare[name] for name in ("cut", "val_acc", "strongest_attack", "psnr_db", "verdict")] == [
        "stem",
        0.875,
        None,
        None,
        None,
    ]
    assert "strongest_attack" not in rows_of(run.logged[1]["report/cuts"])[0]
    assert run.summary == {"leakage/head/psnr_db": 31.25}


def test_pictures_hold_original_and_reconstruction_side_by_side(logged):
    grey, colour = logged.logged[0]["report/pictures"]

    assert isinstance(grey, wandb.Image)
    assert np.array_equal(np.asarray(grey.image), np.concatenate([GREY, GREY[::-1]], axis=1)[..., 0])
    assert np.array_equal(np.asarray(colour.image), np.concatenate([COLOUR, COLOUR[::-1]], axis=1))
    assert grey._caption == "stem, white box: worst record, original and reconstruction, 28.5 dB"
    assert colour._caption == "stem, white box: median record, original and reconstruction, 27.5 dB"


def test_pictures_of_all_attacks_are_logged_the_strongest_first():
    run = FakeRun()
    plain = Picture(which="", original=GREY, reconstruction=GREY, psnr_db=9.5)

    log_to_wandb(report(row("stem", leakage=leakage(weak_cell(pictures=(plain,)), cell()))), run)

    assert [picture._caption for picture in run.logged[0]["report/pictures"]] == [
        "stem, white box: worst record, original and reconstruction, 28.5 dB",
        "stem, white box: median record, original and reconstruction, 27.5 dB",
        "stem, decoder: original and reconstruction, 9.5 dB",
    ]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_any_number_of_channels_can_be_logged(channels):
    run = FakeRun()
    pixels = tuple(tuple(tuple(range(channels)) for _ in range(3)) for _ in range(3))
    pair = Picture(which="", original=pixels, reconstruction=pixels, psnr_db=20.0)

    log_to_wandb(report(row("stem", leakage=leakage(cell(pictures=(pair,))))), run)

    (image,) = run.logged[0]["report/pictures"]
    assert image.image.size == (6, 3)


def test_the_summary_holds_the_leakage_of_every_cut(logged):
    assert logged.summary == {"leakage/stem/psnr_db": 31.25, "leakage/head/psnr_db": 8.75}


def test_cuts_without_pictures_and_reports_without_cuts_are_logged_too():
    run = FakeRun()

    log_to_wandb(report(weak_row("head")), run)
    log_to_wandb(report(), run)

    assert [len(data["report/pictures"]) for data in run.logged] == [0, 0]
    assert [len(data["report/cuts"].data) for data in run.logged] == [1, 0]
    assert [len(data["report/leakage"].data) for data in run.logged] == [1, 0]


@pytest.mark.slow
def test_an_offline_run_writes_table_and_pictures(tmp_path):
    figure = interval(33.5, math.pi, 40.0)
    run = wandb.init(project="lightning-sfl-tests", mode="offline", dir=tmp_path)
    try:
        log_to_wandb(report(row("stem", leakage=leakage(cell(value=figure))), weak_row("head")), run)
    finally:
        wandb.finish()

    tables = [json.loads(path.read_text()) for path in files(tmp_path, "*cuts*.table.json")]
    cells = [json.loads(path.read_text()) for path in files(tmp_path, "*leakage*.table.json")]
    pictures = files(tmp_path, "*.png")
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
    assert [values[tables[0]["columns"].index("psnr_db_low")] for values in tables[0]["data"]] == [math.pi, 8.0]
    assert [values[cells[0]["columns"].index("attack")] for values in cells[0]["data"]] == ["white box", "decoder"]
    assert len(pictures) == 2


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
