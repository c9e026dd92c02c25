import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from report_cases import (
    bounded_cell,
    cell,
    decision,
    interval,
    labels_cell,
    leakage,
    not_run,
    policy_row,
    report,
    row,
    weak_cell,
    weak_row,
)

from lightning_sfl.report.json_file import UNITS, to_json

ENDINGS = (
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


def parsed(*rows: Any, **changes: Any) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads(to_json(report(*rows, **changes)), parse_constant=refuse)
    return document


def test_the_document_says_what_it_is_and_how_it_came_about():
    document = parsed(row())

    assert document["schema"] == "lightning-sfl trade-off report 4"
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


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_every_cost_is_there_unrounded():
    entry = parsed(row(downlink_byte_per_round=1 / 3))["cuts"][0]

    expected = dataclasses.asdict(row(downlink_byte_per_round=1 / 3))
    del entry["leakage"], expected["leakage"], expected["decisions"]
    assert entry == expected


def test_every_cell_is_there_with_all_fields_but_pictures():
    """And with what follows from them: whether the control passed, at 97.5 and 12.5 where 40 is needed."""
    cells = (cell(worst_record=1 / 3), weak_cell(), labels_cell(), bounded_cell())
    entries = parsed(row(leakage=leakage(*cells)))["cuts"][0]["leakage"]["cells"]

    passed = [entry["control"].pop("passed") if entry["control"] else None for entry in entries]
    assert passed == [True, False, None, False]
    for entry, one in zip(entries, cells, strict=True):
        expected = dataclasses.asdict(one)
        del expected["pictures"]
        assert entry == as_json(expected)


def test_a_cut_says_which_attack_was_strongest_which_were_not_run_and_how_long_all_took():
    found = parsed(row(leakage=leakage(weak_cell(), cell(), not_run=(not_run(),))), row(leakage=leakage(labels_cell())))

    strong, weak = (entry["leakage"] for entry in found["cuts"])
    assert strong["strongest"] == "white box"
    assert strong["not_run"] == [
        {"cut": "block1", "attack": "hijacking", "reason": "It needs a malicious server."},
    ]
    assert strong["wall_s"] == 4.5
    assert weak["strongest"] is None
    assert weak["not_run"] == []


def test_a_cut_that_was_not_attacked_has_no_leakage():
    assert parsed(row(leakage=None))["cuts"][0]["leakage"] is None


def test_decisions_of_a_policy_stand_beside_the_cuts():
    document = parsed(row(), policy_row(decision(), decision(round=2, bits="10 × 8")))

    assert [entry["policy"] for entry in document["cuts"]] == [None, "HASFL"]
    assert document["decisions"] == [
        dataclasses.asdict(decision()),
        dataclasses.asdict(decision(round=2, bits="10 × 8")),
    ]
    assert parsed(row())["decisions"] == []


def test_an_interval_is_a_mean_with_bounds_and_numbers_of_records_and_clients():
    lone = leakage(cell(value=interval(31.25, None, None, records=1, clients=1)))

    many, one = (entry["leakage"]["cells"][0]["value"] for entry in parsed(row(), row(leakage=lone))["cuts"])

    assert many == {"mean": 31.25, "low": 30.5, "high": 32.0, "records": 16, "clients": 4}
    assert one == {"mean": 31.25, "low": None, "high": None, "records": 1, "clients": 1}


def test_unknown_values_are_null():
    entry = parsed(weak_row())["cuts"][0]

    assert entry["accuracy"] is None
    assert entry["uplink_byte_per_round"] is None
    assert entry["train_wall_s"] is None


def test_the_verdict_is_a_sentence():
    found = parsed(row(leakage=leakage(cell(), labels_cell(), weak_cell(), bounded_cell())))

    assert [entry["verdict"] for entry in found["cuts"][0]["leakage"]["cells"]] == [
        "leaks",
        "leaks partly",
        "inconclusive: the attack was too weak",
        "bounded",
    ]


def test_no_picture_is_in_it():
    assert "pictures" not in to_json(report(row()))


def named_numbers(value: object, name: str = "") -> Iterator[str]:
    """The name of every number; an interval's, a guess's and further measures go by the name of what they belong to."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from named_numbers(
                part, name if key in ("mean", "low", "high") or name in ("others", "indicators") else key
            )
    elif isinstance(value, list):
        for part in value:
            yield from named_numbers(part, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name


def test_units_are_in_the_names_or_stated():
    document = parsed(row(leakage=leakage(cell(), labels_cell(), indicators={"dFIL": 1.0})), weak_row())
    names = set(named_numbers(document["cuts"]))

    assert {"accuracy", "client_training_memory_byte", "value", "others", "p_value", "cpu_s"} <= names  # they are found
    assert {name for name in names if not name.endswith(ENDINGS)} == set(UNITS)
    assert document["units"] == UNITS
    assert all(entry["measure"] for cut in document["cuts"] for entry in cut["leakage"]["cells"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused_rather_than_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(report(row(accuracy=value)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(report(row(leakage=leakage(cell(value=interval(value, 0, 0))))))


def test_names_in_any_script_are_kept_readable():
    text = to_json(report(row("küche"), title='Ziffern „8×8" \\ </script>'))

    assert "küche" in text
    assert json.loads(text)["title"] == 'Ziffern „8×8" \\ </script>'


def test_a_report_without_cuts_is_a_document_too():
    assert parsed()["cuts"] == []
