"""`tradeoff` of a recipe with a policy: a row for it, its decisions, and cuts that stay where they are."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from cli_cases import CLIENTS, quick, refusal, snapshot, without_times, write
from deciding import ToTheEnd

from lightning_sfl.callbacks import AdaptiveSplit
from lightning_sfl.cli import main
from lightning_sfl.cli.under_policy import row_name
from lightning_sfl.link.log import MessageLog

MONITOR = {"class_path": "lightning_sfl.callbacks.EfficiencyMonitor"}
DECIDES = {
    "class_path": "lightning_sfl.callbacks.AdaptiveSplit",
    "init_args": {"policy": {"class_path": "deciding.ToTheEnd"}, "cuts": ["stem", "block2"]},
}


def deciding(callbacks=(MONITOR, DECIDES), **changes):
    """Two rounds; from the second on everybody cuts at block2, not at the stem."""
    settings = {"trainer.callbacks": list(callbacks), "report.cuts": ["stem"]}
    return quick(**{**settings, "trainer.strategy.init_args.cut": "stem", **changes})


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """What such a trade-off leaves behind."""
    base = tmp_path_factory.mktemp("under_policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setattr(sys, "argv", ["lightning-sfl"])
        main(["tradeoff", "--config", write(base, deciding()), "--output", str(base / "out")])
    return base / "out"


@pytest.fixture(scope="module")
def report(left):
    return json.loads((left / "report.json").read_text())


@pytest.fixture
def unfinished(left, tmp_path) -> Path:
    """The same, stopped before its report."""
    out = tmp_path / "out"
    shutil.copytree(left, out)
    for name in ("report.html", "report.json"):
        (out / name).unlink()
    return out


@pytest.mark.slow
def test_a_cut_is_trained_as_without_the_policy(report, figures):
    assert without_times({**report, "cuts": report["cuts"][:1]})["cuts"] == without_times(figures)["cuts"][:1]


@pytest.mark.slow
def test_the_policy_has_a_row_of_its_own(left, report):
    """Bytes, seconds and joules of a round are means over both: one at the stem, one at block2."""
    stem, found = report["cuts"]
    assert (stem["policy"], found["policy"], found["cut"]) == (None, "ToTheEnd", "ToTheEnd")
    assert 0 <= found["accuracy"] <= 1
    assert found["leakage"] is None
    assert [name for name, value in found.items() if value is None] == [
        "client_forward_flop_per_sample",
        "client_backward_flop_per_sample",
        "client_parameters",
        "client_parameter_byte",
        "client_training_memory_byte",
        "smashed_byte_per_sample",
        "leakage",
    ]
    with (left / "policy" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rounds = [row for row in csv.DictReader(file) if row["delay/round_s"]]
    for name, logged in {
        "uplink_byte_per_round": "comm/uplink_bytes",
        "simulated_s_per_round": "delay/round_s",
        "client_joule_per_round": "energy/client_joule",
    }.items():
        first, second = (float(row[logged]) for row in rounds)
        assert found[name] == pytest.approx((first + second) / 2)
        assert first == pytest.approx(stem[name], rel=0.5)  # the channel fades from round to round
        assert first != second
    assert report["settings"]["policy"] == "ToTheEnd, rounds per decision: 1"
    assert "ToTheEnd is the policy's row" in report["notes"][-1]


@pytest.mark.slow
def test_its_decisions_are_in_the_report(left, report):
    """One before round 1, and one before a round 2 that there is not."""
    assert report["decisions"] == [
        {
            "round": round,
            "clients": CLIENTS,
            "cuts": "3 × block2",
            "batch_sizes": "3 × 4",
            "bits": "",
            "controls": "",
            "reason": f"from round {round} on",
        }
        for round in (1, 2)
    ]
    page = (left / "report.html").read_text()
    assert "<h2>Decisions</h2>" in page
    assert page.count("3 × block2") == 2
    assert "ToTheEnd was not attacked" in page


@pytest.mark.slow
def test_the_log_of_its_last_round_is_at_the_cuts_it_chose(left):
    log = MessageLog.open(left / "policy" / "log")
    assert {message.cut for message in log.messages() if message.cut is not None} == {"block2"}


def test_the_row_is_called_as_no_cut_is():
    assert row_name(AdaptiveSplit(ToTheEnd()), ["stem"]) == "ToTheEnd"
    assert row_name(AdaptiveSplit(ToTheEnd()), ["ToTheEnd", "stem"]) == "ToTheEnd (policy)"


@pytest.mark.slow
def test_an_unfinished_run_goes_on_without_training_again(unfinished, report, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_sfl.cli.training.fit", None)
    monkeypatch.setattr("lightning_sfl.cli.tradeoff.fit", None)
    monkeypatch.setattr("lightning_sfl.cli.under_policy.fit", None)

    main(["tradeoff", "--config", write(tmp_path, deciding()), "--output", str(unfinished)])

    again = json.loads((unfinished / "report.json").read_text())
    assert again["cuts"][1] == report["cuts"][1]
    assert again["decisions"] == report["decisions"]
    assert "ToTheEnd was trained in an earlier run" in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_trained_under_another_policy_is_not_gone_on_with(unfinished, tmp_path, capsys):
    """Interrupted before the first cut."""
    shutil.rmtree(unfinished / "cuts")
    before = snapshot(unfinished)
    other = {**DECIDES, "init_args": {**DECIDES["init_args"], "every": 2}}

    said = refusal(
        ["tradeoff", "--config", write(tmp_path, deciding((MONITOR, other))), "--output", str(unfinished)], capsys
    )

    assert "another configuration, which differs in trainer.callbacks" in said
    assert snapshot(unfinished) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"callbacks": [DECIDES]}, "put a lightning_sfl.callbacks.EfficiencyMonitor before", id="no world"),
        pytest.param({"trainer.strategy.init_args.cut": None}, "name the cut of the first round", id="no cut"),
    ],
)
def test_what_would_stop_the_policy_at_its_start_is_said_before_anything_is_trained(tmp_path, capsys, changes, words):
    said = refusal(
        ["tradeoff", "--config", write(tmp_path, deciding(**changes)), "--output", str(tmp_path / "out")], capsys
    )

    assert words in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_its_messages_can_be_attacked(left, tmp_path, capsys):
    """As the note in the report says."""
    place = left / "policy"
    command = ["audit", "--config", str(left / "config.yaml"), "--log", str(place / "log")]
    main([*command, "--ckpt_path", str(place / "model.ckpt"), "--output", str(tmp_path / "out")])

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [cut["cut"] for cut in found["cuts"]] == ["block2"]
    assert found["cuts"][0]["leakage"]["cells"][0]["value"]["records"] == 8
