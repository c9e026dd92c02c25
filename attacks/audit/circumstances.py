"""All that the findings of an attack depend on, each under a name, so that old ones are never taken for new."""

import dataclasses
import hashlib
import inspect
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.attacker import Background
from attacks.audit.kept import Circumstances
from attacks.audit.settings import AuditSettings
from attacks.images import ImageSpace
from lightning_sfl.link.log import MessageLog

_PACKAGES = ("lightning-sfl", "torch", "numpy", "scipy")


CircumstancesOf = Callable[[Attack, str | None], Circumstances]
"""Gives the circumstances of an attack at a cut."""


def of_log(
    log: MessageLog, background: Background, settings: AuditSettings, cuts: Sequence[str | None]
) -> CircumstancesOf:
    """Gives the circumstances of an attack at a cut of a log; what does not depend on these is looked at once."""
    shared = {
        **_known(background),
        "message log": log.fingerprint(),
        "batch sizes": digest(_batch_sizes(log)),
        "records": str(settings.records),
    }
    programs = {cut: background.program(cut).fingerprint() for cut in cuts}

    def of(attack: Attack, cut: str | None) -> Circumstances:
        return {"cut": _place(cut), **of_attack(attack), **shared, "model": programs[cut]}

    return of


def of_control(attack: Attack, where: str | None, space: ImageSpace) -> Circumstances:
    """The circumstances of an attack's control: images of this shape, and a victim cut there."""
    return {"cut": f"control, {_place(where)}", **of_attack(attack), "images": repr(space)}


def of_attack(attack: Attack) -> dict[str, str]:
    """What an attack is: its settings, its program, and what that runs on."""
    kind = type(attack)
    return {
        "attack": attack.name,
        "settings": f"{kind.__module__}.{attack!r}",
        "code": code(kind),
        **versions(),
    }


def versions() -> dict[str, str]:
    """What figures depend on beside this project's own text: other sums in another order are other figures."""
    return {
        "versions": ", ".join([platform.python_version(), *(f"{name} {metadata.version(name)}" for name in _PACKAGES)]),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch threads": str(torch.get_num_threads()),
    }


def code(*kinds: type) -> str:
    """SHA-256 of this project's program text, and of the files that these classes are from."""
    files = {file for kind in kinds if (file := _source(kind)) is not None}
    return digest([_own_code(), *(file.read_bytes() for file in sorted(files))])


def digest(value: Any) -> str:
    """SHA-256 of a value: of tensors their type, shape and bytes, of dataclasses and mappings what they hold."""
    found = hashlib.sha256()
    _feed(found.update, value)
    return found.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        update(f"{value.dtype} {tuple(value.shape)} {value.device.type}".encode())
        update(flat.view(torch.uint8).numpy().tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        update(type(value).__name__.encode())
        for field in dataclasses.fields(value):
            update(field.name.encode())
            _feed(update, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            update(f"{key!r}:".encode())
            _feed(update, item)
    elif isinstance(value, list | tuple):
        update(f"{len(value)}".encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, bytes):
        update(value)
    else:
        update(f"{value!r};".encode())


def _known(background: Background) -> dict[str, str]:
    """What there is to know besides the messages. Functions are known by what they give: see the other entries."""
    names = {"space": "images"}
    values = {field.name: getattr(background, field.name) for field in dataclasses.fields(background)}
    return {
        names.get(name, name.replace("_", " ")): repr(value) if name == "space" else digest(value)
        for name, value in values.items()
        if not callable(value)
    }


def _batch_sizes(log: MessageLog) -> list[tuple[int, int, list[int]]]:
    clients = sorted({message.client for message in log.messages() if message.client is not None})
    return [
        (client, round, [len(step) for step in log.worked_on(client, round)])
        for round in log.rounds()
        for client in clients
    ]


@cache
def _own_code() -> bytes:
    found = hashlib.sha256()
    for package in ("attacks", "lightning_sfl"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            found.update(str(path.relative_to(root)).encode())
            found.update(path.read_bytes())
    return found.digest()


def _source(kind: type) -> Path | None:
    try:
        return Path(inspect.getfile(kind))
    except (TypeError, OSError):
        return None  # typed in by hand: its settings alone tell it from others


def _place(cut: str | None) -> str:
    return "whole model" if cut is None else cut
