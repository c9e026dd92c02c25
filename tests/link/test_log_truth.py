import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from log_cases import SENT, make, numbers

from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import MessageKind


@pytest.fixture(params=["memory", "disk"])
def log_of(request, tmp_path):
    """Makes an empty log, in memory or on disk."""

    def make_log(**options):
        return MessageLog(tmp_path / "log" if request.param == "disk" else None, **options)

    return make_log


# Which records clients worked on


def test_what_clients_worked_on_is_kept_step_by_step(log_of):
    log = log_of()
    log.note_step(0, {3: [5, 1], 0: (2,)})
    log.note_step(0, {3: range(2)})
    log.note_step(1, {0: []})

    assert log.worked_on(3, 0) == [(5, 1), (0, 1)]
    assert log.worked_on(0, 0) == [(2,)]
    assert log.worked_on(0, 1) == [()]
    assert log.worked_on(3, 1) == log.worked_on(0, 7) == log.worked_on(9, 0) == []


def test_what_clients_worked_on_is_not_the_truth_of_a_message(log_of):
    log = log_of()
    log.note_step(0, {0: [4]})
    log.append(make(0), Origin(1, (2,)))

    assert log.truth() == {0: Origin(1, (2,))}


def test_what_clients_worked_on_is_forgotten_with_its_round(log_of):
    log = log_of(keep_rounds=2)
    for round in range(4):
        log.note_step(round, {0: [round]})
        if round != 1:  # nothing crossed, and still it is forgotten
            log.append(make(round, round=round))

    assert [log.worked_on(0, round) for round in range(4)] == [[], [], [(2,)], [(3,)]]


def test_rounds_are_those_of_the_messages(log_of):
    log = log_of(keep_rounds=2)
    assert log.rounds() == []
    for number, round in enumerate([0, 2, 2, 3]):
        log.append(make(number, round=round))

    assert log.rounds() == [2, 3]


def test_what_clients_worked_on_is_saved_and_opened(log_of, tmp_path):
    """A round whose messages were all lost is saved as well: a client may have worked for nothing."""
    log = log_of()
    for round in range(3):
        log.note_step(round, {0: [round], 1: [round, 9]})
        log.note_step(round, {0: [round + 5]})
        if round != 1:
            log.append(make(round, round=round), Origin(0, (round,)))

    log.save(tmp_path / "saved")

    opened = MessageLog.open(tmp_path / "saved")
    for round in range(3):
        assert opened.worked_on(0, round) == log.worked_on(0, round) == [(round,), (round + 5,)]
        assert opened.worked_on(1, round) == log.worked_on(1, round) == [(round, 9)]


def test_a_line_of_steps_that_a_killed_run_left_unfinished_is_passed_over(tmp_path):
    log = MessageLog(tmp_path)
    log.append(make(0))
    for step in range(3):
        log.note_step(0, {0: [step]})
    path = tmp_path / "truth" / "round_000000.steps.jsonl"
    text = path.read_text()
    for cut_off in range(1, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut_off])
        assert MessageLog.open(tmp_path).worked_on(0, 0) == [(0,), (1,)]


# Damage


def test_a_whole_log_has_no_damage(log_of):
    log = log_of()
    log.append(make(0))

    assert log.damaged() == ()


@given(places=st.sets(st.integers(0, 5), max_size=6), data=st.data())
def test_damaged_files_are_passed_over_and_named(places, data):
    """Cut short anywhere, or with any bit turned: a checksum covers every byte."""
    with tempfile.TemporaryDirectory() as folder:
        log = MessageLog(folder)
        for number in range(6):
            log.append(make(number, round=number // 3))
        files = sorted(Path(folder).glob("messages/*/*.safetensors"))
        for place in places:
            content = bytearray(files[place].read_bytes())
            at = data.draw(st.integers(0, len(content) - 1))
            if data.draw(st.booleans()):
                content = content[:at]
            else:
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            files[place].write_bytes(content)

        opened = MessageLog.open(folder)

        assert numbers(opened) == [number for number in range(6) if number not in places]
        assert opened.damaged() == tuple(str(files[place].relative_to(folder)) for place in sorted(places))
        assert opened.damaged() == opened.damaged()
        assert opened.is_empty() == (len(places) == 6)


def test_of_a_damaged_log_the_whole_messages_are_saved(tmp_path):
    log = MessageLog(tmp_path / "log")
    for number in range(3):
        log.append(make(number), Origin(0, (number,)))
    (tmp_path / "log" / "messages" / "round_000000" / "00000001.safetensors").write_bytes(b"")

    MessageLog.open(tmp_path / "log").save(tmp_path / "saved")

    saved = MessageLog.open(tmp_path / "saved")
    assert numbers(saved) == [0, 2]
    assert saved.damaged() == ()
    assert saved.truth() == {0: Origin(0, (0,)), 2: Origin(0, (2,))}


# Fingerprints


@given(sent=SENT)
def test_a_fingerprint_is_the_same_wherever_the_log_is_kept(sent):
    """In memory, on disk while it is written, saved, and opened again."""
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = MessageLog(), MessageLog(Path(folder) / "run")
        round = 0
        for number, (kind, uplink, client, later, sizes) in enumerate(sent):
            round += later
            tensors = {name: torch.full((size, 2), float(number)) for name, size in sizes.items()}
            message = make(number, round=round, client=client, kind=kind, uplink=uplink, tensors=tensors)
            memory.append(message)
            disk.append(message, Origin(client, (number,)))
        logs = [disk]
        memory.save(Path(folder) / "saved")
        logs.append(MessageLog.open(Path(folder) / "saved"))
        if sent:
            logs.append(MessageLog.open(Path(folder) / "run"))

        assert {log.fingerprint() for log in logs} == {memory.fingerprint()}
        assert len(bytes.fromhex(memory.fingerprint())) == 32


def test_a_fingerprint_says_nothing_of_the_truth(log_of):
    log = log_of()
    log.append(make(0))
    before = log.fingerprint()

    log.note_step(0, {0: [1]})

    assert log.fingerprint() == before


@given(element=st.integers(0, 5), bit=st.integers(0, 7), byte=st.integers(0, 3))
def test_a_fingerprint_is_another_for_any_changed_bit(element, bit, byte):
    """Of a payload of 6 floats, 4 bytes each."""
    tensor = torch.arange(6.0)
    changed = tensor.clone()
    changed.view(torch.uint8)[4 * element + byte] ^= 1 << bit
    one, other = MessageLog(), MessageLog()
    one.append(make(0, tensors={"0": tensor}))
    other.append(make(0, tensors={"0": changed}))

    assert one.fingerprint() != other.fingerprint()


CHANGES = {
    "number": 1,
    "kind": MessageKind.LABEL,
    "sender": "client/1",
    "receiver": "fed_server",
    "round": 5,
    "step": 7,
    "cut": None,
    "tensors": {"1": torch.zeros(2)},
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_fingerprint_is_another_for_any_changed_field(field):
    one, other = MessageLog(), MessageLog()
    message = make(0)
    one.append(message)
    other.append(dataclasses.replace(message, **{field: CHANGES[field]}))

    assert one.fingerprint() != other.fingerprint()


def test_a_fingerprint_is_another_for_another_order_and_for_less():
    logs = [MessageLog() for _ in range(3)]
    for log, order in zip(logs, ([0, 1], [1, 0], [0]), strict=True):
        for number in order:
            log.append(make(number))

    assert len({log.fingerprint() for log in logs}) == 3
