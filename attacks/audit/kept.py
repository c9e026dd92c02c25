"""What an audit has found so far, in a folder, so that one that was interrupted goes on where it was.

    FOLDER/CUT.ATTACK.1a2b3c4d5e6f.safetensors     what one attack found at one cut, and all that this depends on

Tensors are kept as safetensors, everything else as JSON in their header.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from attacks import attack as found_by_attacks
from attacks.attack import Findings

Circumstances = Mapping[str, str]
"""All that findings depend on, by name; ``cut`` and ``attack`` are among them."""

_CLASSES: dict[str, Callable[..., Any]] = {
    name: kind
    for name, kind in vars(found_by_attacks).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
"""The classes that findings are made of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptFindings:
    """What was found in an earlier run.

    Attributes:
        findings: As the attack brought them back.
        cpu_s: CPU seconds that it took.
        wall_s: Wall time that it took.
    """

    findings: Findings
    cpu_s: float
    wall_s: float


class Kept:
    """A folder of findings, none of which is ever used under other circumstances than it was made in.

    Args:
        folder: Where they are; it is made when there is something to keep.

    Attributes:
        used: What was found there and taken, in words.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.used: list[str] = []

    def unfit(self, wanted: Sequence[Circumstances]) -> tuple[str, ...]:
        """What is there and cannot be used by an audit that asks for these, in words: which, and what differs."""
        asked = {_file_name(each) for each in wanted}
        found: list[str] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            there = _read(path)
            if there is None:
                found.append(f"{path.name} is damaged")
            elif path.name not in asked:
                found.append(_misfit(there[0]["circumstances"], wanted))
        return tuple(found)

    def find(self, wanted: Circumstances) -> KeptFindings | None:
        """What was found under exactly these circumstances; None where that is not there whole."""
        path = self.folder / _file_name(wanted)
        there = _read(path) if path.exists() else None
        if there is None or there[0]["circumstances"] != dict(wanted):
            return None
        fields, tensors = there
        self.used.append(_in_words(wanted))
        findings = _decoded(fields["findings"], tensors)
        return KeptFindings(findings=findings, cpu_s=fields["cpu_s"], wall_s=fields["wall_s"])

    def keep(self, wanted: Circumstances, found: KeptFindings) -> None:
        """Keep what was found under these circumstances."""
        tensors: dict[str, Tensor] = {}
        fields = {
            "circumstances": dict(wanted),
            "findings": _encoded(found.findings, tensors),
            "cpu_s": found.cpu_s,
            "wall_s": found.wall_s,
        }
        text = json.dumps(fields)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _file_name(wanted)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(save(tensors, {"fields": text, "crc32": _checksum(text, tensors)}))
        os.replace(unfinished, path)  # a killed audit leaves whole findings only

    def remove(self) -> None:
        """Forget everything: the audit has come to its report."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _misfit(had: Circumstances, wanted: Sequence[Circumstances]) -> str:
    """Why what was made under these circumstances is not what is asked for."""
    same = [each for each in wanted if all(each[name] == had.get(name) for name in ("cut", "attack"))]
    if not same:
        return f"{_in_words(had)} is not asked for"
    differing = [[name for name in {**had, **each} if had.get(name) != each.get(name)] for each in same]
    fewest = min(len(names) for names in differing)
    nearest = next(names for names in differing if len(names) == fewest)
    return f"{_in_words(had)} differs in {', '.join(nearest)}"


def _in_words(circumstances: Circumstances) -> str:
    return f"{circumstances['attack']} at {circumstances['cut']}"


def _file_name(circumstances: Circumstances) -> str:
    digest = hashlib.sha256(json.dumps(dict(circumstances), sort_keys=True).encode()).hexdigest()
    parts = (re.sub(r"[^\w.-]+", "-", circumstances[name])[:60] for name in ("cut", "attack"))
    return f"{'.'.join(parts)}.{digest[:12]}.safetensors"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What a file holds; None where it is damaged."""
    try:
        tensors = load(path.read_bytes())
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
        if header["crc32"] != _checksum(header["fields"], tensors):
            return None
        return json.loads(header["fields"]), tensors
    except (SafetensorError, KeyError, ValueError):
        return None


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of everything in a file: a flipped bit would be another figure."""
    return f"{zlib.crc32(save({name: tensors[name] for name in sorted(tensors)}, {'fields': text})):08x}"


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, with its tensors put beside under names of their own."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _CLASSES:
        fields = {field.name: _encoded(getattr(value, field.name), tensors) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item, tensors) for item in value]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"Findings hold a {type(value).__name__}, which cannot be kept: {value!r}.")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_decoded(item, tensors) for item in value["tuple"])
    fields = {name: _decoded(item, tensors) for name, item in value["fields"].items()}
    return _CLASSES[value["class"]](**fields)
