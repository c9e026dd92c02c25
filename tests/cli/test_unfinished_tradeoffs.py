"""Trade-offs that were stopped before their report, and what the same command does with what they left."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_cases import quick, refusal, snapshot, without_times, write
from killing import KILLS_AT, Killing

from lightning_sfl.cli import main


@pytest.fixture
def unfinished(folder, tmp_path) -> Path:
    """What is left where a run was stopped before its report: two trained cuts."""
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "report.html").unlink()
    (out / "report.json").unlink()
    return out


def test_an_unfinished_run_goes_on_without_training_again(unfinished, recipe, figures, capsys, monkeypatch):
    """The same command with the same folder: a report like that of the run that was not stopped."""
    monkeypatch.setattr("lightning_sfl.cli.tradeoff._train", None)

    main(["tradeoff", "--config", recipe, "--output", str(unfinished)])

    again = json.loads((unfinished / "report.json").read_text())
    assert without_times(again) == without_times(figures)
    assert [cut["train_wall_s"] for cut in again["cuts"]] == [cut["train_wall_s"] for cut in figures["cuts"]]
    assert "block2 was trained in an earlier run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_command_that_was_killed_gives_the_report_of_one_that_was_not(tmp_path, capsys, monkeypatch):
    """SIGKILL in the attack at the second cut: both were trained and the first was attacked, and only the rest is
    done: that attack. Its control is that of every cut, and is made once, at the first."""
    attack = {"class_path": "killing.Killing", "init_args": {"iterations": 5}}
    recipe = write(tmp_path, quick(**{"privacy.attacks": [attack]}))
    command = ["tradeoff", "--config", recipe, "--output"]
    code = f"from lightning_sfl.cli import main; main({[*command, str(tmp_path / 'killed')]!r})"
    threads = str(torch.get_num_threads())  # other threads, other sums: nothing would be taken over
    environment = {
        **os.environ,
        KILLS_AT: "block2",
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    Killing.ran.clear()
    main([*command, str(tmp_path / "whole")])
    assert Killing.ran == ["stem", "mix", "block2"]
    Killing.ran.clear()
    monkeypatch.setattr("lightning_sfl.cli.tradeoff._train", None)

    main([*command, str(tmp_path / "killed")])

    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("killed", "whole")]
    assert Killing.ran == ["block2"]
    assert without_times(reports[0]) == without_times(reports[1])
    assert not [path for name in ("findings", "controls") for path in (tmp_path / "killed").rglob(name)]


@pytest.mark.slow
def test_a_cut_whose_training_was_stopped_is_trained_again_and_named(unfinished, recipe, figures, capsys):
    """One cut without its mark, the other with a log of which a message was lost."""
    (unfinished / "cuts" / "stem" / "trained.json").unlink()
    lost = sorted((unfinished / "cuts" / "block2" / "log").rglob("*.safetensors"))[-1]
    lost.unlink()

    main(["tradeoff", "--config", recipe, "--output", str(unfinished)])

    said = capsys.readouterr().out
    assert "stem is trained again: its training did not come to its end" in said
    assert "block2 is trained again: its message log is not the one that it sent" in said
    assert without_times(json.loads((unfinished / "report.json").read_text())) == without_times(figures)


def test_an_unfinished_run_of_another_configuration_is_refused_and_named(unfinished, tmp_path, capsys):
    other = write(tmp_path, quick(**{"model.init_args.width": 4}))
    before = snapshot(unfinished)

    said = refusal(["tradeoff", "--config", other, "--output", str(unfinished)], capsys)

    assert "another configuration, which differs in model.init_args.width" in said
    assert str(unfinished) in said
    assert snapshot(unfinished) == before
