import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from report_cases import leakage, report, row, weak_row

from lightning_sfl.report.json_file import to_json
from lightning_sfl.report.report import Interval

UNITS = (
    "_db",
    "_byte",
    "_flop",
    "_s",
    "_byte_per_sample",
    "_flop_per_sample",
    "_byte_per_round",
    "_s_per_round",
    "_joule_per_round",
)
WITHOUT_UNIT = {"accuracy", "client_parameters", "ssim", "baseline_ssim", "fit", "records"}


def parsed(*rows: Any, **changes: Any) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads(to_json(report(*rows, **changes)), parse_constant=refuse)
    return document


def test_the_document_says_what_it_is_and_how_it_came_about():
    document = parsed(row())

    assert document["schema"] == "lightning-sfl trade-off report 1"
    assert document["title"] == "Digits"
    assert document["created"] == "2030-01-02T03:04:05+00:00"
    assert document["metric"] == "val_acc"
    assert document["settings"] == {"seed": "0", "clients": "10, dirichlet:0.5"}
    assert document["versions"] == {"torch": "9.9"}
    assert document["notes"] == ["1 multiply-accumulate counts as 2 FLOP."]


def test_there_is_one_entry_per_cut_in_order():
    assert [entry["cut"] for entry in parsed(row("stem"), row("block1"), weak_row("head"))["cuts"]] == [
        "stem",
        "block1",
        "head",
    ]


def test_every_figure_is_there_unrounded():
    """All fields of a row and of its leakage but the pictures, as they are."""
    entry = parsed(row(downlink_byte_per_round=1 / 3))["cuts"][0]

    expected = dataclasses.asdict(row(downlink_byte_per_round=1 / 3))
    del expected["leakage"]["pictures"]
    assert entry == expected


def test_an_interval_is_a_mean_with_bounds_and_a_number_of_records():
    found = parsed(row())["cuts"][0]["leakage"]["psnr_db"]

    assert found == {"mean": 31.25, "low": 30.5, "high": 32.0, "records": 16}


def test_unknown_values_are_null():
    entry = parsed(weak_row())["cuts"][0]

    assert entry["accuracy"] is None
    assert entry["uplink_byte_per_round"] is None
    assert entry["train_wall_s"] is None


def test_the_verdict_is_a_sentence():
    verdicts = [entry["leakage"]["verdict"] for entry in parsed(row(), weak_row())["cuts"]]

    assert verdicts == ["leaks", "inconclusive: the attack was too weak"]


def test_no_picture_is_in_it():
    assert "pictures" not in to_json(report(row()))


def named_numbers(value: object, name: str = "") -> Iterator[str]:
    """The name of every number; the bounds of an interval go by the interval's name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from named_numbers(part, name if key in ("mean", "low", "high") else key)
    elif isinstance(value, list):
        for part in value:
            yield from named_numbers(part, name)
    elif isinstance(value, int | float):
        yield name


def test_units_are_in_the_names():
    names = set(named_numbers(parsed(row(), weak_row())["cuts"]))

    assert {"accuracy", "client_training_memory_byte", "psnr_db"} <= names  # the search finds them
    assert {name for name in names if not name.endswith(UNITS)} == WITHOUT_UNIT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused_rather_than_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(report(row(accuracy=value)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(report(row(leakage=leakage(psnr_db=Interval(mean=value, low=0, high=0, records=1)))))


def test_names_in_any_script_are_kept_readable():
    text = to_json(report(row("küche"), title='Ziffern „8×8" \\ </script>'))

    assert "küche" in text
    assert json.loads(text)["title"] == 'Ziffern „8×8" \\ </script>'


def test_a_report_without_cuts_is_a_document_too():
    assert parsed()["cuts"] == []
