"""`plan` for clients that run forward only, and for codecs at the cut."""

import json
from typing import Any

import pytest
from cli_cases import quick, write

from lightning_sfl.cli import main

STRATEGY = "trainer.strategy.init_args"
HOSFL: dict[str, Any] = {"class_path": "lightning_sfl.algorithms.HOSFL", "init_args": {"probes": 3}}


def planned(folder, **changes) -> dict[str, dict[str, Any]]:
    """The cuts of a plan, by name."""
    target = folder / "plan.json"
    target.unlink(missing_ok=True)
    main(["plan", "--config", write(folder, quick(**changes)), "--json", str(target)])
    return {entry["cut"]: entry for entry in json.loads(target.read_text())["cuts"]}


@pytest.mark.slow
def test_clients_that_run_forward_only(tmp_path, capsys):
    """A step of 3 clients at block2 has 12 scalars of 4 bytes up and 12 with 3 seeds of 8 bytes each down, no weights.

    With one of three clients in every round of two steps, a client misses 2 steps for each it is not drawn; all is sent
    as 12 bytes a probe and step.
    """
    first, hybrid = planned(tmp_path), planned(tmp_path, **{f"{STRATEGY}.algorithm": HOSFL})
    said = " ".join(capsys.readouterr().out.split())
    assert "Memory is a client's, probing at a batch of 4." in said
    assert "the seeds and scalars of 3 probes, with those that clients missed; its" in said
    smashed = 3 * 4 * first["block2"]["smashed_byte_per_sample"]
    assert hybrid["block2"]["uplink_byte_per_round"] == pytest.approx(smashed + 3 * 4 * 8 + 3 * 3 * 4)
    assert hybrid["block2"]["downlink_byte_per_round"] == pytest.approx(smashed + 3 * 3 * (4 + 8))
    assert max(hybrid["block2"]["clients"]["memory_byte"]) < max(first["block2"]["clients"]["memory_byte"])
    away = planned(
        tmp_path,
        **{f"{STRATEGY}.algorithm": HOSFL, f"{STRATEGY}.clients_per_round": 1, f"{STRATEGY}.aggregate_every": 2},
    )
    extra = away["block2"]["downlink_byte_per_round"] - 2 * (smashed / 3 + 3 * (4 + 8))
    assert 0 < extra < 19 * 2 * 3 * 12
    assert (extra * 20 / (3 * 12)) % 2 == pytest.approx(0)  # whole rounds of two steps are missed


@pytest.mark.slow
def test_codecs(tmp_path, capsys):
    """In 8 bits every tensor has a byte per element and 8 bytes for its range, both ways or one; other codecs are said
    to be left out."""
    plain = planned(tmp_path)
    name = "lightning_sfl.link.codecs"
    quantiser = [{"class_path": f"{name}.StochasticUniform", "init_args": {"bits": 8}}]
    eight = planned(tmp_path, **{f"{STRATEGY}.codecs": quantiser})
    assert "What goes through a quantiser at the cut is counted so." in " ".join(capsys.readouterr().out.split())
    element = 3 * 4 * plain["block2"]["smashed_byte_per_sample"] / 4
    for way in ("uplink", "downlink"):
        saved = plain["block2"][f"{way}_byte_per_round"] - eight["block2"][f"{way}_byte_per_round"]
        assert saved == pytest.approx(4 * element - (element + 3 * 8))
    one_way = planned(tmp_path, **{f"{STRATEGY}.codecs": {"smashed": quantiser}})
    assert one_way["block2"]["uplink_byte_per_round"] == eight["block2"]["uplink_byte_per_round"]
    assert one_way["block2"]["downlink_byte_per_round"] == plain["block2"]["downlink_byte_per_round"]
    capsys.readouterr()
    other = planned(tmp_path, **{f"{STRATEGY}.codecs": [{"class_path": f"{name}.BFloat16"}]})
    assert "The codecs (BFloat16()) are not counted." in " ".join(capsys.readouterr().out.split())
    assert other["block2"]["uplink_byte_per_round"] == plain["block2"]["uplink_byte_per_round"]
