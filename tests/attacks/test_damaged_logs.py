"""Audits of logs that are not whole: what is there is attacked, and what is lost is named."""

import dataclasses
import json
import zlib

import pytest
from audited import BATCH, CLIENTS, ONE_ITERATION, Trained, train

from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(log=MessageLog())


@pytest.fixture
def on_disk(trained, tmp_path):
    trained.log.save(tmp_path / "log")
    return tmp_path / "log"


def test_of_a_log_that_was_cut_off_the_rest_is_attacked_and_what_is_lost_is_named(trained, on_disk):
    """The last round's smashed data of client 0 are cut in the middle: its round before is its newest then."""
    newest = [m for m in trained.log.messages(kinds=[MessageKind.SMASHED]) if m.client == 0][-1]
    (path,) = on_disk.rglob(f"{newest.number:08d}.safetensors")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    log = MessageLog.open(on_disk)

    found = trained.cell(ONE_ITERATION, log=log)

    assert found.value.records == 2 * BATCH
    assert log.damaged() == (str(path.relative_to(on_disk)),)
    assert log.fingerprint() != trained.log.fingerprint()


def test_a_message_of_a_kind_that_this_version_does_not_know_is_named(trained, on_disk):
    """A log of a later version may hold some. The checksum is put right, so that only the kind is odd."""
    path = min(on_disk.rglob("*.safetensors"))
    data = path.read_bytes().replace(b'"kind":"broadcast"', b'"kind":"broadcost"')
    at = data.index(b'"crc32":"') + len(b'"crc32":"')
    zeroed = data[:at] + b"0" * 8 + data[at + 8 :]
    path.write_bytes(data[:at] + f"{zlib.crc32(zeroed):08x}".encode() + data[at + 8 :])
    log = MessageLog.open(on_disk)

    found = trained.cell(ONE_ITERATION, log=log)

    assert found.value.records == 2 * BATCH
    assert log.damaged() == (str(path.relative_to(on_disk)),)


def test_messages_whose_records_are_lost_are_not_scored_and_named(trained, on_disk):
    """The truth of the last round is cut off behind client 0's line; of clients 1 and 2 nothing is known."""
    path = on_disk / "truth" / "round_000003.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["client"] == 0) + '{"number": 7')

    found = trained.cell(dataclasses.replace(ONE_ITERATION, records=1000), log=MessageLog.open(on_disk))

    lost = [name for name in found.left_out if name.startswith("message ")]
    assert found.value.records == BATCH
    assert len(lost) == CLIENTS - 1
    assert "does not say its records" in found.left_out[lost[0]]


def test_an_attack_of_which_nothing_can_be_scored_is_named(trained, on_disk):
    for path in (on_disk / "truth").iterdir():
        path.unlink()

    (found,) = trained.audit(ONE_ITERATION, log=MessageLog.open(on_disk))

    assert found.cells == ()
    assert found.not_run[0].reason.startswith(
        "Not scored: the truth beside the log does not say the records of message"
    )
    assert found.indicators == {}
