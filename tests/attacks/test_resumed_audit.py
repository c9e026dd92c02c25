"""Audits that are interrupted go on where they were, and take nothing for theirs that was made otherwise."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attack_cases import background_of, noise_images, two_halves
from audited import without_times
from interrupted import FIRST, KILLS, SECOND, Second, audited
from torch import nn

from attacks.attack import Findings, GuessedLabels, RebuiltBatch
from attacks.attacker import Records
from attacks.audit import circumstances
from attacks.audit.circumstances import of_control, of_log
from attacks.audit.kept import Kept, KeptFindings
from attacks.audit.settings import AuditSettings
from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer, Rule
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import FED_SERVER, Message, MessageKind, client_name


def cpu_seconds(found) -> list[float]:
    return [cell.cpu_s for at_cut in found for cell in at_cut.cells]


@pytest.mark.slow
def test_an_audit_that_was_killed_goes_on_with_what_it_had_found(tmp_path, monkeypatch):
    """SIGKILL in the second attack: the first and its control are not run again, and cost what they cost then."""
    torch.set_num_threads(1)
    environment = {**os.environ, KILLS: "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "import interrupted; interrupted.main()", str(tmp_path / "kept")]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    was_there = sorted(path.name for path in (tmp_path / "kept").iterdir())
    kept = Kept(tmp_path / "kept")
    ran: list[type] = []
    run = type(FIRST).run
    monkeypatch.setattr(type(FIRST), "run", lambda self, *args: ran.append(type(self)) or run(self, *args))

    found = audited(kept)

    assert len(was_there) == 2
    assert kept.used == [
        "white-box inversion (scale-free) at front",
        "white-box inversion (scale-free) at control, mix",
    ]
    assert ran == [Second, Second]  # the attack and its control
    assert without_times(found) == without_times(audited(None))
    assert cpu_seconds(audited(Kept(tmp_path / "kept"))) == cpu_seconds(found)


def test_what_was_found_is_not_looked_for_again(tmp_path):
    first = audited(Kept(tmp_path))
    Second.ran.clear()

    again = audited(Kept(tmp_path))

    assert Second.ran == []
    assert without_times(again) == without_times(first)
    assert cpu_seconds(again) == cpu_seconds(first)
    assert again[0].wall_s > 0.5 * first[0].wall_s - 0.5  # the time of the earlier run counts


def test_scores_are_made_anew_from_the_truth_at_hand(tmp_path):
    """With other records for truth the kept pictures are the same, and worse."""
    first = audited(Kept(tmp_path))
    kept = Kept(tmp_path)

    other = audited(kept, offset=1)

    assert len(kept.used) == 4
    assert other[0].cells[0].value.mean < first[0].cells[0].value.mean - 10


def test_findings_of_another_log_or_of_other_settings_are_not_used_and_named(tmp_path):
    audited(Kept(tmp_path))
    Second.ran.clear()
    longer = dataclasses.replace(SECOND, iterations=6)
    other = Records(images_BCHW=noise_images(6, 1, seed=10))

    with pytest.warns(UserWarning, match=r"second at front differs in settings") as warned:
        audited(Kept(tmp_path), attacks=(FIRST, longer))
    with pytest.warns(UserWarning, match=r"white-box inversion .scale-free. at front differs in auxiliary\b"):
        audited(Kept(tmp_path), attacks=(FIRST,), auxiliary=other)

    assert "white-box" not in str(warned[0].message)
    assert len(Second.ran) == 2


def test_findings_that_nobody_asks_for_are_named(tmp_path):
    audited(Kept(tmp_path))

    with pytest.warns(UserWarning, match="second at front is not asked for"):
        audited(Kept(tmp_path), attacks=(FIRST,))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1])]
)
def test_damaged_findings_are_named_and_made_again(tmp_path, damage):
    """Cut off, and with a bit of the last pixel flipped."""
    first = audited(Kept(tmp_path))
    (path,) = tmp_path.glob("front.second.*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    Second.ran.clear()

    with pytest.warns(UserWarning, match=rf"{path.name} is damaged"):
        again = audited(Kept(tmp_path))

    assert len(Second.ran) == 1
    assert without_times(again) == without_times(first)


def test_half_written_findings_are_not_there(tmp_path):
    audited(Kept(tmp_path))
    (path,) = tmp_path.glob("front.second.*.safetensors")
    path.rename(path.with_suffix(".unfinished"))
    Second.ran.clear()

    audited(Kept(tmp_path))

    assert len(Second.ran) == 1


def test_what_is_kept_can_be_removed(tmp_path):
    audited(Kept(tmp_path / "kept"))

    Kept(tmp_path / "kept").remove()
    Kept(tmp_path / "kept").remove()

    assert list(tmp_path.iterdir()) == []


# What findings depend on


def log_of(value: float = 0.0, sizes: tuple[int, ...] = (4,)) -> MessageLog:
    log = MessageLog()
    names = {"sender": FED_SERVER, "receiver": client_name(0)}
    sent = {"front.weight": torch.full((2, 1, 3, 3), value)}
    log.append(Message(number=0, kind=MessageKind.BROADCAST, round=0, step=0, cut="front", tensors=sent, **names))
    for size in sizes:
        log.note_step(0, {0: range(size)})
    return log


def told(
    log: MessageLog | None = None,
    records: int = 8,
    attack=FIRST,
    front: nn.Module | None = None,
    low: float = 0.0,
    **known,
):
    torch.manual_seed(0)  # the same weights for every model that is made here
    images = noise_images(2, channels=1)
    module = two_halves(nn.Conv2d(1, 2, 3) if front is None else front, images)
    background = dataclasses.replace(background_of(module, images), **known)
    if low:
        background = dataclasses.replace(background, space=ImageSpace(shape_CHW=(1, 8, 8), low=(low,)))
    return of_log(log or log_of(), background, AuditSettings(records=records), ["front"])(attack, "front")


class Doubled(nn.Conv2d):
    """The layers are the same to look at; what they compute is not."""

    def forward(self, x):
        return 2 * super().forward(x)

    def _get_name(self):
        return "Conv2d"


def frozen(value: float) -> nn.Module:
    front = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1))
    front[1].requires_grad_(requires_grad=False).weight.data.fill_(value)
    front[1].bias.data.zero_()
    return front


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"log": log_of(1.0)}, ["message log"]),
        ({"log": log_of(sizes=(4, 3))}, ["batch sizes"]),
        ({"records": 9}, ["records"]),
        ({"attack": dataclasses.replace(FIRST, seed=1)}, ["settings"]),
        ({"low": -1.0}, ["images"]),
        ({"auxiliary": Records(images_BCHW=noise_images(2, 1))}, ["auxiliary"]),
        ({"outside": Records(images_BCHW=noise_images(2, 1))}, ["outside"]),
        ({"server_weights": {"head.1.bias": torch.zeros(4)}}, ["server weights"]),
        ({"client_weights": {"front.bias": torch.zeros(2)}}, ["client weights"]),
        ({"optimizer": LocalOptimizer(rule=Rule.SGD, learning_rate=0.1)}, ["optimizer"]),
        ({"front": Doubled(1, 2, 3)}, ["model"]),
        ({"front": nn.Conv2d(1, 2, 3, bias=False)}, ["model"]),
    ],
    ids=lambda value: next(iter(value), "same") if isinstance(value, dict) else "",
)
def test_everything_that_findings_depend_on_has_a_name(changes, named):
    had, now = told(), told(**changes)

    assert [name for name in had if had[name] != now[name]] == named


def test_frozen_weights_are_the_programs():
    assert told(front=frozen(0.0))["model"] == told(front=frozen(0.0))["model"]
    assert told(front=frozen(0.0))["model"] != told(front=frozen(1.0))["model"]


def test_findings_of_another_text_of_the_program_or_of_other_threads_are_not_the_same(monkeypatch):
    had = told()
    monkeypatch.setattr(circumstances, "_own_code", lambda: b"changed")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)

    now = told()

    assert [name for name in had if had[name] != now[name]] == ["code", "torch threads"]


def test_a_control_depends_on_the_attack_and_the_shape_of_images_alone():
    space = ImageSpace(shape_CHW=(1, 8, 8))

    names = set(of_control(FIRST, "mix", space))

    assert names == {"cut", "attack", "settings", "code", "versions", "machine", "torch threads", "images"}
    assert of_control(FIRST, "mix", space) != of_control(FIRST, "first", space)
    assert of_control(FIRST, "mix", space) != of_control(FIRST, "mix", ImageSpace(shape_CHW=(3, 8, 8)))


# What is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_findings_come_back_as_they_were(tmp_path, dtype):
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(2, 3)
    rebuilt = RebuiltBatch(number=4, images_BCHW=images, in_order=False, fit=0.1 + 0.2)
    bare = dataclasses.replace(rebuilt, images_BCHW=images[:1], fit=None)
    lost = dataclasses.replace(rebuilt, images_BCHW=torch.full((1, 1, 1, 1), math.inf, dtype=dtype), fit=math.inf)
    findings = Findings(batches=(rebuilt, bare, lost), budget="σ of 3 × 4", bound="nothing")
    wanted = {"cut": "a/b", "attack": "some: attack"}

    Kept(tmp_path).keep(wanted, KeptFindings(findings=findings, cpu_s=1 / 3, wall_s=2 / 3))
    found = Kept(tmp_path).find(wanted)

    assert found is not None
    assert (found.cpu_s, found.wall_s) == (1 / 3, 2 / 3)
    assert (found.findings.budget, found.findings.bound) == ("σ of 3 × 4", "nothing")
    for one, other in zip(found.findings.batches, findings.batches, strict=True):
        assert one.images_BCHW.dtype is dtype
        assert torch.equal(one.images_BCHW, other.images_BCHW)
        assert dataclasses.replace(one, images_BCHW=None) == dataclasses.replace(other, images_BCHW=None)


def test_labels_come_back_as_they_were(tmp_path):
    labels = GuessedLabels(number=1, labels_B=torch.tensor([3, 1]), in_order=True)
    wanted = {"cut": "a", "attack": "b"}

    Kept(tmp_path).keep(wanted, KeptFindings(findings=Findings(batches=(labels,), budget=""), cpu_s=0, wall_s=0))

    found = Kept(tmp_path).find(wanted)
    assert found is not None
    assert found.findings.batches[0].labels_B.tolist() == [3, 1]
    assert Kept(tmp_path).find({**wanted, "cut": "c"}) is None


def test_findings_that_cannot_be_kept_are_refused_by_type(tmp_path):
    odd = Findings(batches=(), budget=Path("x"))  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="PosixPath, which cannot be kept"):
        Kept(tmp_path).keep({"cut": "a", "attack": "b"}, KeptFindings(findings=odd, cpu_s=0, wall_s=0))
