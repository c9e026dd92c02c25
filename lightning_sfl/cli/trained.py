"""What `tradeoff` has trained, told from what was interrupted, so that nothing is trained twice.

FOLDER/log            the messages of the last round
FOLDER/model.ckpt     the model as trained
FOLDER/trained.json   what the training cost and depends on; written last, so it stands for all the rest
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.report import CutRow, DecisionRow

CHECKPOINT = "model.ckpt"
_TRAINED = "trained.json"


def keep_trained(folder: Path, row: CutRow, log: MessageLog, circumstances: Mapping[str, str]) -> None:
    """Write down that training came to its end; its log and checkpoint are there already."""
    costs = dataclasses.asdict(dataclasses.replace(row, leakage=None))
    text = json.dumps({"circumstances": dict(circumstances), "log": log.fingerprint(), "row": costs}, indent=2)
    unfinished = folder / f"{_TRAINED}.unfinished"
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, folder / _TRAINED)


def earlier_training(folder: Path, circumstances: Mapping[str, str]) -> tuple[CutRow, MessageLog] | str:
    """What a training under these circumstances cost and sent; else, in words, why that is not there."""
    if not (folder / _TRAINED).is_file():
        return "its training did not come to its end"
    try:
        kept: dict[str, Any] = json.loads((folder / _TRAINED).read_text(encoding="utf-8"))
        decisions = tuple(DecisionRow(**found) for found in kept["row"].pop("decisions", ()))
        row, had, fingerprint = CutRow(**kept["row"], decisions=decisions), kept["circumstances"], kept["log"]
    except (ValueError, KeyError, TypeError):
        return f"{_TRAINED} is damaged"
    if differing := [name for name in {**had, **circumstances} if had.get(name) != circumstances.get(name)]:
        return f"it was trained with another {', '.join(differing)}"
    if not (folder / "log" / "messages").is_dir() or not (folder / CHECKPOINT).is_file():
        return "its log or its checkpoint is gone"
    log = MessageLog.open(folder / "log")
    if log.fingerprint() != fingerprint:
        return "its message log is not the one that it sent"
    return row, log


def forget(folder: Path) -> None:
    """Remove what an interrupted training left behind."""
    shutil.rmtree(folder)
