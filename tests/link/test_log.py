import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from log_cases import SENT, described, make, numbers

from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import MessageKind, client_name
from lightning_sfl.link.meter import Meter


@pytest.fixture(params=["memory", "disk"])
def log_of(request, tmp_path):
    """Makes an empty log, in memory or on disk."""

    def make_log(**options):
        return MessageLog(tmp_path / "log" if request.param == "disk" else None, **options)

    return make_log


def test_a_log_gives_back_what_it_was_given_in_order(log_of):
    log = log_of()
    assert log.is_empty()
    sent = [
        make(0, round=0, client=1),
        make(1, round=0, client=0, uplink=False, kind=MessageKind.CUT_GRADIENT),
        make(2, round=1, tensors={"b": torch.tensor(1), "a": torch.ones(0, 3)}),
        make(3, round=2, tensors={}),
    ]
    for message in sent:
        log.append(message)
    assert described(log.messages()) == described(sent)
    assert not log.is_empty()
    assert log.truth() == {}


def test_messages_are_found_by_kind_and_client(log_of):
    log = log_of()
    kinds = [MessageKind.SMASHED, MessageKind.LABEL, MessageKind.CUT_GRADIENT]
    for number in range(6):
        log.append(make(number, client=number // 3, kind=kinds[number % 3], uplink=number % 3 < 2))
    assert numbers(log, kinds=[MessageKind.LABEL]) == [1, 4]
    assert numbers(log, kinds=[MessageKind.CUT_GRADIENT, MessageKind.SMASHED]) == [0, 2, 3, 5]
    assert numbers(log, client=1) == [3, 4, 5]
    assert numbers(log, kinds=[MessageKind.LABEL], client=0) == [1]
    assert numbers(log, kinds=[]) == []
    assert numbers(log, client=7) == []


def test_a_message_is_copied_when_it_is_kept(log_of):
    log = log_of()
    tensor = torch.ones(3)
    log.append(make(0, tensors={"0": tensor}))
    tensor.zero_()
    assert next(log.messages()).tensors["0"].tolist() == [1.0, 1.0, 1.0]


def test_a_kept_tensor_holds_no_graph(log_of):
    log = log_of()
    weight = torch.ones(3, requires_grad=True)
    log.append(make(0, tensors={"0": weight * 2}))
    found = next(log.messages()).tensors["0"]
    assert not found.requires_grad
    assert found.tolist() == [2.0, 2.0, 2.0]


def test_the_truth_stands_beside_the_messages_by_number(log_of):
    log = log_of()
    log.append(make(0), Origin(3, (5, 1)))
    log.append(make(1))
    log.append(make(2, round=1), Origin(0, ()))
    assert log.truth() == {0: Origin(3, (5, 1)), 2: Origin(0, ())}


def test_only_the_last_rounds_are_kept_and_their_truth(log_of):
    log = log_of(keep_rounds=2)
    for number, round in enumerate([0, 0, 1, 3, 3, 4]):
        log.append(make(number, round=round), Origin(0, (number,)))
    assert numbers(log) == [3, 4, 5]
    assert set(log.truth()) == {3, 4, 5}


def test_messages_come_in_the_order_sent_after_a_million_rounds_and_a_hundred_million_messages(log_of):
    """File names are padded to so many digits; sorted as text, 1000000 would come before 999999."""
    log = log_of()
    sent = [(99_999_998, 999_999), (99_999_999, 1_000_000), (100_000_000, 1_000_000)]
    for number, round in sent:
        log.append(make(number, round=round))
    assert numbers(log) == [number for number, _ in sent]


@pytest.mark.parametrize("keep_rounds", [0, -1])
def test_fewer_than_one_round_is_refused(keep_rounds):
    with pytest.raises(ValueError, match=rf"keep_rounds={keep_rounds} is not accepted: .* at least 1, or None for all"):
        MessageLog(keep_rounds=keep_rounds)


# Replaying


@given(sent=SENT)
def test_a_replayed_log_gives_the_runs_meter_totals(sent):
    """In memory, on disk while it is written, saved, and opened again."""
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = MessageLog(), MessageLog(Path(folder) / "run")
        meters = []
        for log in (memory, disk):
            link = LocalLink(log)
            round = 0
            for step, (kind, uplink, client, later, sizes) in enumerate(sent):
                round += later
                ends = (client_name(client), "server") if uplink else ("server", client_name(client))
                link.send(
                    kind,
                    sender=ends[0],
                    receiver=ends[1],
                    round=round,
                    step=step,
                    cut=None,
                    tensors={name: torch.zeros(size, 2) for name, size in sizes.items()},
                    origin=Origin(client, (step,)) if uplink else None,
                )
            meters.append(link.meter)
        logs = [memory, disk]
        if sent:
            memory.save(Path(folder) / "saved")
            logs += [MessageLog.open(Path(folder) / "run"), MessageLog.open(Path(folder) / "saved")]
        for log in logs:
            replayed = Meter()
            for message in log.messages():
                replayed.count(message)
            assert replayed.by_kind() == meters[0].by_kind() == meters[1].by_kind()
            assert replayed.total() == meters[0].total()
            assert described(log.messages()) == described(memory.messages())
            assert log.truth() == memory.truth()
            assert [message.number for message in log.messages()] == list(range(len(sent)))


# On disk


def test_a_file_is_the_message_as_it_goes_over_the_wire(tmp_path):
    message = make(12, round=3)
    log = MessageLog(tmp_path)
    log.append(message, Origin(0, (4, 2)))
    path = tmp_path / "messages" / "round_000003" / "00000012.safetensors"
    assert path.read_bytes() == message.to_bytes()
    truth = tmp_path / "truth" / "round_000003.jsonl"
    assert truth.read_text() == '{"number": 12, "client": 0, "indices": [4, 2]}\n'
    assert sorted(each for each in tmp_path.rglob("*") if each.is_file()) == [path, truth]


def test_a_message_says_nothing_of_the_records_it_stems_from(tmp_path):
    with_origin, without = MessageLog(tmp_path / "with"), MessageLog(tmp_path / "without")
    with_origin.append(make(0), Origin(0, (271, 828)))
    without.append(make(0))
    files = [next((tmp_path / name / "messages").rglob("*.safetensors")) for name in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_old_rounds_leave_no_file_behind(tmp_path):
    log = MessageLog(tmp_path, keep_rounds=1)
    for round in range(3):
        log.append(make(round, round=round), Origin(0, (0,)))
    assert [path.name for path in (tmp_path / "messages").iterdir()] == ["round_000002"]
    assert [path.name for path in (tmp_path / "truth").iterdir()] == ["round_000002.jsonl"]


def test_a_saved_log_opens_as_it_was(tmp_path):
    log = MessageLog()
    log.append(make(0), Origin(1, (2,)))
    log.append(make(5, round=4), None)
    log.save(tmp_path / "new" / "folder")
    opened = MessageLog.open(str(tmp_path / "new" / "folder"))
    assert described(opened.messages()) == described(log.messages())
    assert opened.truth() == log.truth()
    opened.save(tmp_path / "again")
    assert described(MessageLog.open(tmp_path / "again").messages()) == described(log.messages())
    assert MessageLog.open(tmp_path / "again").truth() == log.truth()


def test_an_empty_log_can_be_saved_and_opened(tmp_path):
    MessageLog().save(tmp_path / "empty")
    assert MessageLog.open(tmp_path / "empty").is_empty()


def test_a_truth_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path):
    log = MessageLog(tmp_path)
    for number in range(3):
        log.append(make(number), Origin(0, (number,)))
    path = tmp_path / "truth" / "round_000000.jsonl"
    text = path.read_text()
    for cut_off in range(1, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut_off])
        assert MessageLog.open(tmp_path).truth() == {0: Origin(0, (0,)), 1: Origin(0, (1,))}


def test_an_unfinished_message_file_is_passed_over(tmp_path):
    log = MessageLog(tmp_path)
    log.append(make(0))
    (tmp_path / "messages" / "round_000000" / "00000001.unfinished").write_bytes(make(1).to_bytes()[:-3])
    assert numbers(MessageLog.open(tmp_path)) == [0]


def test_a_folder_that_holds_a_log_is_not_written_to(tmp_path):
    log = MessageLog(tmp_path)
    log.append(make(0))
    message = r"directory='.*' holds a message log already\. Read it with MessageLog\.open, or give an empty or new"
    with pytest.raises(ValueError, match=message):
        MessageLog(tmp_path)
    with pytest.raises(ValueError, match=message):
        MessageLog(str(tmp_path))
    other = MessageLog()
    other.append(make(7))
    with pytest.raises(ValueError, match=message):
        other.save(tmp_path)
    assert numbers(MessageLog.open(tmp_path)) == [0]


def test_a_folder_without_a_log_cannot_be_opened(tmp_path):
    message = r"directory='.*' holds no message log \(it has no folder named messages\)"
    with pytest.raises(ValueError, match=message):
        MessageLog.open(tmp_path)
    with pytest.raises(ValueError, match=message):
        MessageLog.open(tmp_path / "nowhere")


@pytest.mark.parametrize("below", ["", "log", "deep/down"])
def test_a_log_cannot_be_kept_in_or_below_a_file(tmp_path, below):
    """Said when the log is made, not when the first message is written; and the file stays."""
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"directory='.*' cannot be made: '.*notes\.txt' is a file"):
        MessageLog(file / below)
    assert file.read_text() == "mine"


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    log = MessageLog(tmp_path, keep_rounds=1)
    log.append(make(0))
    log.append(make(1, round=1))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert numbers(log) == [1]
