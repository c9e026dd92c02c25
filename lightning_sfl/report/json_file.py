"""The report as JSON, for machines; pictures are left to the HTML file."""

import dataclasses
import json
from typing import Any

from lightning_sfl.report.leakage import CutLeakage, Leakage
from lightning_sfl.report.report import CutRow, Report

_MEASURE = "the measure that the entry names"
UNITS = {
    "value": _MEASURE,
    "gain": _MEASURE,
    "worst_record": _MEASURE,
    "threshold": _MEASURE,
    "needed": _MEASURE,
    "others": "the measure that is each figure's name",
    "indicators": "what each figure's name says",
    "p_value": "probability",
    "p_adjusted": "probability",
    "accuracy": "the document's metric",
    "share_recovered": "share of the records",
    "repeated_labels": "share of the records",
    "fit": "distance, relative to what was sent; 0 explains it wholly",
    "client_parameters": "count",
    "records": "count",
    "records_beyond": "count",
    "clients": "count",
    "batch_sizes": "records",
    "round": "number of the round, from 0",
}
"""What numbers are in whose names do not end with a unit."""


def to_json(report: Report) -> str:
    """The report as a JSON text. Unknown values are null.

    Raises:
        ValueError: A figure is not a number, or infinite.
    """
    document = {
        "schema": report.schema,
        "title": report.title,
        "created": report.created,
        "metric": report.metric,
        "settings": report.settings,
        "versions": report.versions,
        "notes": list(report.notes),
        "units": UNITS,
        "cuts": [_row(row) for row in report.rows],
        "decisions": [dataclasses.asdict(decision) for row in report.rows for decision in row.decisions],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: CutRow) -> dict[str, Any]:
    costs = dataclasses.asdict(dataclasses.replace(row, leakage=None))
    del costs["decisions"]  # beside the cuts
    return {**costs, "leakage": None if row.leakage is None else _leakage(row.leakage)}


def _leakage(found: CutLeakage) -> dict[str, Any]:
    return {
        "cut": found.cut,
        "strongest": None if found.strongest is None else found.strongest.attack,
        "cells": [_cell(cell) for cell in found.cells],
        "not_run": [dataclasses.asdict(attack) for attack in found.not_run],
        "notes": list(found.notes),
        "wall_s": found.wall_s,
        "indicators": found.indicators,
    }


def _cell(cell: Leakage) -> dict[str, Any]:
    fields = dataclasses.asdict(dataclasses.replace(cell, pictures=()))
    del fields["pictures"]
    if cell.control is not None:
        fields["control"]["passed"] = cell.control.passed
    return fields
