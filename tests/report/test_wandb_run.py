import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import COLOUR, GREY, leakage, report, row, weak_row

from lightning_sfl.report.report import Interval
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
    assert [sorted(data) for data in logged.logged] == [["report/cuts", "report/pictures", "report/tradeoff"]]


def test_the_table_has_one_row_per_cut_with_all_costs_and_figures(logged):
    table = logged.logged[0]["report/cuts"]

    assert isinstance(table, wandb.Table)
    assert next(dict(zip(table.columns, values, strict=True)) for values in table.data) == {
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
        "attack_wall_s": 3.25,
        "psnr_db": 31.25,
        "psnr_db_low": 30.5,
        "psnr_db_high": 32.0,
        "ssim": 0.91,
        "ssim_low": 0.88,
        "ssim_high": 0.93,
        "baseline_psnr_db": 9.75,
        "baseline_ssim": 0.21,
        "verdict": "leaks",
    }


def test_unknown_values_are_left_empty(logged):
    table = logged.logged[0]["report/cuts"]
    weak = dict(zip(table.columns, table.data[1], strict=True))

    assert weak["cut"] == "head"
    assert weak["val_acc"] is None
    assert weak["train_wall_s"] is None
    assert weak["verdict"] == "inconclusive: the attack was too weak"


def test_pictures_hold_original_and_reconstruction_side_by_side(logged):
    grey, colour = logged.logged[0]["report/pictures"]

    assert isinstance(grey, wandb.Image)
    assert np.array_equal(np.asarray(grey.image), np.concatenate([GREY, GREY[::-1]], axis=1)[..., 0])
    assert np.array_equal(np.asarray(colour.image), np.concatenate([COLOUR, COLOUR[::-1]], axis=1))
    assert grey._caption == "stem: original, reconstruction, 28.5 dB"


def test_the_summary_holds_the_leakage_of_every_cut(logged):
    assert logged.summary == {"leakage/stem/psnr_db": 31.25, "leakage/head/psnr_db": 31.25}


def test_cuts_without_pictures_and_reports_without_cuts_are_logged_too():
    run = FakeRun()

    log_to_wandb(report(weak_row("head")), run)
    log_to_wandb(report(), run)

    assert [len(data["report/pictures"]) for data in run.logged] == [0, 0]
    assert [len(data["report/cuts"].data) for data in run.logged] == [1, 0]


@pytest.mark.slow
def test_an_offline_run_writes_table_and_pictures(tmp_path):
    figure = Interval(mean=33.5, low=math.pi, high=40.0, records=16)
    run = wandb.init(project="lightning-sfl-tests", mode="offline", dir=tmp_path)
    try:
        log_to_wandb(report(row("stem", leakage=leakage(psnr_db=figure)), weak_row("head")), run)
    finally:
        wandb.finish()

    tables = [json.loads(path.read_text()) for path in files(tmp_path, "*cuts*.table.json")]
    pictures = files(tmp_path, "*.png")
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
    assert [values[tables[0]["columns"].index("psnr_db_low")] for values in tables[0]["data"]] == [math.pi, 30.5]
    assert len(pictures) == 2


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
