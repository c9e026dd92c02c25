"""The report as JSON, for machines; pictures are left to the HTML file."""

import dataclasses
import json
from typing import Any

from lightning_sfl.report.report import CutRow, Report


def to_json(report: Report) -> str:
    """The report as a JSON text. Units are in the names; unknown values are null."""
    document = {
        "schema": report.schema,
        "title": report.title,
        "created": report.created,
        "metric": report.metric,
        "settings": report.settings,
        "versions": report.versions,
        "notes": list(report.notes),
        "cuts": [_row(row) for row in report.rows],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: CutRow) -> dict[str, Any]:
    fields = dataclasses.asdict(row)
    del fields["leakage"]["pictures"]
    return fields
