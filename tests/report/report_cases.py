"""Reports made by hand."""

from typing import Any

from lightning_sfl.report.leakage import (
    Baseline,
    Control,
    CutLeakage,
    Interval,
    Leakage,
    NotRun,
    Picture,
    Pixels,
    Verdict,
    Victim,
)
from lightning_sfl.report.report import CutRow, DecisionRow, Report

GREY: Pixels = tuple(tuple((10 * row + column,) for column in range(6)) for row in range(4))
COLOUR: Pixels = tuple(tuple((40 * row, 30 * column, 200) for column in range(5)) for row in range(3))


def interval(mean: float, low: float | None, high: float | None, records: int = 16, clients: int = 4) -> Interval:
    return Interval(mean=mean, low=low, high=high, records=records, clients=clients)


def victim(**changes: Any) -> Victim:
    values: dict[str, Any] = {
        "round": 7,
        "trained": "7 rounds of training",
        "mode": "training",
        "batch_norm": "batch statistics",
        "dropout": "off",
        "dtype": "float32",
        "encoded": "8 bits",
        "batch_sizes": (4, 16),
        "repeated_labels": 0.25,
    }
    return Victim(**{**values, **changes})


def cell(**changes: Any) -> Leakage:
    """An attack that brought images back."""
    values: dict[str, Any] = {
        "cut": "block1",
        "attack": "white box",
        "recovers": "images",
        "parties": ("both servers", "malicious server"),
        "sees": ("broadcast", "smashed"),
        "knows": ("architecture", "client_weights"),
        "victim": victim(),
        "measure": "PSNR (dB)",
        "value": interval(31.25, 30.5, 32.0),
        "baseline": "mid-grey",
        "baselines": (
            Baseline(name="mid-grey", value=interval(9.75, 9.0, 10.5)),
            Baseline(name="mean of auxiliary images", value=interval(8.75, 8.0, 9.5)),
            Baseline(name="nearest auxiliary image", value=interval(14.25, 13.0, 15.5), uses_truth=True),
        ),
        "gain": interval(21.5, 20.0, 23.0),
        "p_value": 0.002,
        "p_adjusted": 0.014,
        "worst_record": 41.5,
        "threshold": 20.0,
        "share_recovered": 0.625,
        "others": {"SSIM": interval(0.91, 0.88, 0.93)},
        "control": Control(victim="an orthogonal map", value=97.5, needed=40.0),
        "fit": 0.0015,
        "verdict": Verdict.LEAKS,
        "reason": "It beats mid-grey, and at least one record passes 20.",
        "bound": "",
        "budget": "400 iterations",
        "cpu_s": 3.25,
        "pictures": (
            Picture(which="worst", original=GREY, reconstruction=GREY[::-1], psnr_db=28.5),
            Picture(which="median", original=COLOUR, reconstruction=COLOUR[::-1], psnr_db=27.5),
        ),
    }
    return Leakage(**{**values, **changes})


def weak_cell(**changes: Any) -> Leakage:
    """An attack on images that came to nothing."""
    weak: dict[str, Any] = {
        "attack": "decoder",
        "gain": interval(-1.0, -2.0, 0.5),
        "value": interval(8.75, 8.0, 9.5),
        "p_value": 0.6,
        "p_adjusted": 1.0,
        "worst_record": 12.5,
        "share_recovered": 0.0,
        "control": Control(victim="an orthogonal map", value=12.5, needed=40.0),
        "verdict": Verdict.INCONCLUSIVE,
        "reason": "It does not beat mid-grey beyond chance.",
        "pictures": (),
    }
    return cell(**{**weak, **changes})


def labels_cell(**changes: Any) -> Leakage:
    """An attack on labels, whose gain is a share and no number of decibels."""
    labels: dict[str, Any] = {
        "attack": "norms of cut gradients",
        "recovers": "labels",
        "parties": (),
        "sees": ("cut_gradient",),
        "knows": (),
        "measure": "labels right",
        "value": interval(0.75, 0.5, 0.875),
        "baseline": "the most frequent class",
        "baselines": (Baseline(name="the most frequent class", value=interval(0.25, 0.125, 0.375)),),
        "gain": interval(0.5, 0.25, 0.625),
        "p_adjusted": 0.0005,
        "worst_record": 1.0,
        "threshold": 0.9,
        "share_recovered": 0.75,
        "others": {},
        "control": None,
        "fit": None,
        "verdict": Verdict.PARTLY,
        "reason": "It beats the most frequent class.",
        "victim": victim(repeated_labels=None),
        "pictures": (),
    }
    return cell(**{**labels, **changes})


def bounded_cell(**changes: Any) -> Leakage:
    """An attack on what says nothing about the records."""
    return weak_cell(**{"verdict": Verdict.BOUNDED, "bound": "2 bits per record crossed", **changes})


def leakage(*cells: Leakage, **changes: Any) -> CutLeakage:
    """One cell where none is given."""
    values: dict[str, Any] = {"cut": "block1", "cells": cells or (cell(),), "not_run": (), "wall_s": 4.5}
    return CutLeakage(**{**values, **changes})


def not_run(**changes: Any) -> NotRun:
    values: dict[str, Any] = {"cut": "block1", "attack": "hijacking", "reason": "It needs a malicious server."}
    return NotRun(**{**values, **changes})


def row(cut: str = "block1", **changes: Any) -> CutRow:
    values: dict[str, Any] = {
        "cut": cut,
        "accuracy": 0.875,
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
        "leakage": leakage(),
    }
    return CutRow(**{**values, **changes})


def weak_row(cut: str = "block4", **changes: Any) -> CutRow:
    """A cut where nothing was trained and the attack came to nothing."""
    untrained: dict[str, Any] = {
        "accuracy": None,
        "uplink_byte_per_round": None,
        "downlink_byte_per_round": None,
        "simulated_s_per_round": None,
        "train_wall_s": None,
        "smashed_byte_per_sample": 4096.0,
        "leakage": leakage(weak_cell()),
    }
    return row(cut, **{**untrained, **changes})


def decision(**changes: Any) -> DecisionRow:
    values: dict[str, Any] = {
        "round": 1,
        "clients": 10,
        "cuts": "3 × block1, 7 × stem",
        "batch_sizes": "10 × 8",
        "bits": "",
        "controls": "0.1 to 2 W",
        "reason": "the shortest round",
    }
    return DecisionRow(**{**values, **changes})


def policy_row(*decisions: DecisionRow, **changes: Any) -> CutRow:
    """A training under a policy: it has no cut of its own, and was not attacked."""
    of_a_cut = (
        "client_forward_flop_per_sample",
        "client_backward_flop_per_sample",
        "client_parameters",
        "client_parameter_byte",
        "client_training_memory_byte",
        "smashed_byte_per_sample",
        "leakage",
    )
    values = {**dict.fromkeys(of_a_cut), "policy": "HASFL", "decisions": decisions}
    return row(**{"cut": "HASFL", **values, **changes})


def report(*rows: CutRow, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "Digits",
        "created": "2030-01-02T03:04:05+00:00",
        "metric": "val_acc",
        "settings": {"seed": "0", "clients": "10, dirichlet:0.5"},
        "versions": {"torch": "9.9"},
        "rows": rows,
        "notes": ("1 multiply-accumulate counts as 2 FLOP.",),
    }
    return Report(**{**values, **changes})
