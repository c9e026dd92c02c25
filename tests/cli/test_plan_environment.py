import json
import re
from pathlib import Path
from typing import Any

import cli_models
import numpy as np
import pytest
import torch
import yaml
from cli_cases import CLIENTS, quick, refusal, write

from lightning_sfl.cli import main, plan_model
from lightning_sfl.cut.find import find_cuts
from lightning_sfl.link.meter import Meter
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.round_cost import RoundCost
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.world import World
from recipes.cnn.small_resnet import SmallResNet

MODEL_COLUMNS = [
    *("client_forward_flop_per_sample", "client_training_memory_byte", "smashed_byte_per_sample", "client_parameters"),
    *("round_s", "client_joule_per_round", "uplink_byte_per_round"),
]


def planned(folder: Path, recipe: dict[str, Any], *args: str) -> dict[str, Any]:
    """What `plan` writes for a recipe."""
    target = folder / "plan.json"
    target.unlink(missing_ok=True)
    main(["plan", "--config", write(folder, recipe), "--json", str(target), *args])
    document: dict[str, Any] = json.loads(target.read_text())
    return document


def by_hand(name: str, cut: str, *, seed: int = 0, steps: int = 1, **settings: Any) -> list[RoundCost]:
    """The first 20 rounds of the quick recipe at a cut, asked of a world that is put together here."""
    model, batch = SmallResNet(width=2), (torch.rand(4, 1, 32, 32), torch.arange(4))
    splits = {found.name: found.split for found in find_cuts(model, batch)}
    environment = make_environment(name, CLIENTS, seed)
    world = World(
        profile=profile_cuts(model, batch, splits, model.configure_optimizers()),
        fleet=environment.fleet,
        channel=environment.channel,
        server=environment.server,
        aggregate_every=steps,
        **settings,
    )
    who = Participation(
        clients=np.arange(CLIENTS),
        cut=np.repeat(world.profile.index([cut]), CLIENTS),
        batch_size=np.full(CLIENTS, 4),
    )
    return [world.round(who, round=number) for number in range(20)]


def at(document: dict[str, Any], cut: str) -> dict[str, Any]:
    """The entry of a cut."""
    (entry,) = [entry for entry in document["cuts"] if entry["cut"] == cut]
    return dict(entry)


def monitor(**settings: Any) -> dict[str, Any]:
    """An efficiency monitor among the callbacks."""
    return {
        "trainer.callbacks": [{"class_path": "lightning_sfl.callbacks.EfficiencyMonitor", "init_args": dict(settings)}]
    }


def test_costs_are_those_of_the_world(tmp_path, here, capsys):
    """Two mini-batches per optimizer step, three steps per round: six."""
    changes = {"trainer.strategy.init_args.aggregate_every": 3, "trainer.accumulate_grad_batches": 2}
    document = planned(tmp_path, quick(**changes))
    costs = by_hand("wei_chen", "block2", steps=6)

    found = at(document, "block2")
    assert document["environment"]["name"] == "wei_chen"
    assert document["settings"]["steps_per_round"] == 6
    assert found["round_s"] == pytest.approx(np.mean([cost.total_s for cost in costs]))
    joule = [(cost.compute_joule + cost.radio_joule).sum() for cost in costs]
    assert found["client_joule_per_round"] == pytest.approx(np.mean(joule))
    step_s = np.mean([cost.steps[0].client_s for cost in costs], axis=0)
    assert found["clients"]["step_s"] == pytest.approx(step_s)
    assert found["median_step_s"] == pytest.approx(np.median(step_s))
    assert found["slowest_step_s"] == pytest.approx(step_s.max())
    assert found["slowest_client"] == step_s.argmax()
    assert found["clients"]["memory_byte"] == [found["client_training_memory_byte"]] * CLIENTS
    assert found["fits_clients"] == CLIENTS
    said = capsys.readouterr().out
    assert "Environment: wei_chen, seed 0, with a serial server." in said
    assert "Fleet: 3 clients, splitfed_shared, 6 steps per round, batches of 4 (also" in said
    assert max(map(len, said.splitlines())) <= 160
    assert list(here.iterdir()) == []


def test_the_monitors_environment_is_the_plans(tmp_path, capsys):
    recipe = quick(**monitor(environment="safsl", seed=5, flop_per_mac=1))
    document = planned(tmp_path, recipe)
    costs = by_hand("safsl", "stem", seed=5, flop_per_mac=1)

    assert {name: document["environment"][name] for name in ("name", "seed", "flop_per_mac")} == {
        "name": "safsl",
        "seed": 5,
        "flop_per_mac": 1,
    }
    assert at(document, "stem")["round_s"] == pytest.approx(np.mean([cost.total_s for cost in costs]))
    said = capsys.readouterr().out
    assert "Environment: safsl, seed 5, with a serial server. Its speeds count a multiply-accumulate as 1 FLOP." in said


def test_a_named_environment_takes_the_place_of_the_monitors(tmp_path, capsys):
    """Energy is no part of hasfl, so it has none here."""
    recipe = quick(**monitor(environment="safsl", seed=5, flop_per_mac=1))
    document = planned(tmp_path, recipe, "--environment", "hasfl")

    assert (document["environment"]["name"], document["environment"]["seed"]) == ("hasfl", 5)
    assert document["environment"]["flop_per_mac"] == 2
    assert at(document, "stem")["client_joule_per_round"] is None
    assert at(document, "stem")["clients"]["step_joule"] == [None] * CLIENTS


def test_devices_with_little_memory_are_counted(tmp_path, capsys):
    """At batch 4, stem.0 fits into 200,000 byte and block4 does not; P is at cuts that fit all three."""
    devices = tmp_path / "devices.csv"
    lines = ["clock_hz,flop_per_cycle,watt_per_cubic_hz,transmit_power_watt,memory_byte"]
    lines += [f"1e9,1000,1e-27,0.5,{memory}" for memory in ("1e9", "2e5", "1e9")]
    devices.write_text("\n".join(lines))

    document = planned(tmp_path, quick(), "--environment", str(devices))

    assert at(document, "stem.0")["clients"]["fits"] == [True] * 3
    assert at(document, "block4")["clients"]["fits"] == [True, False, True]
    assert all(entry["fits_clients"] == 3 for entry in document["cuts"] if entry["pareto_optimal"])
    assert document["environment"]["client_memory_byte"] == [1e9, 2e5, 1e9]
    said = capsys.readouterr().out
    assert "2 of 3" in said
    assert "P is only at cuts that fit all of them" in said


def test_a_recipe_names_a_file_of_devices(tmp_path, capsys):
    """The command line reads files that are given in the place of a class; this one is no configuration."""
    devices = tmp_path / "devices.csv"
    devices.write_text("clock_hz,flop_per_cycle,transmit_power_watt\n" + "1e9,1000,0.5\n" * CLIENTS)
    changes = {
        "trainer.callbacks": [
            {"class_path": "lightning_sfl.callbacks.EfficiencyMonitor", "init_args": {"environment": str(devices)}}
        ]
    }

    with pytest.raises(SystemExit) as exited:
        main(["fit", "--config", write(tmp_path, quick(**changes)), "--print_config"])

    assert exited.value.code == 0
    (monitor,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert monitor["init_args"]["environment"] == str(devices)


def test_what_is_not_an_environment_is_refused(tmp_path, here, capsys):
    said = refusal(["plan", "--config", write(tmp_path, quick()), "--environment", "mars"], capsys)

    assert "environment='mars' is not known" in said
    assert list(here.iterdir()) == []


def test_clients_that_hold_less_than_a_batch_train_on_all_they_have(tmp_path, capsys):
    """1,500 samples for 450 clients: 150 hold 4, the others 3."""
    changes = {"trainer.strategy.init_args.partition": "iid", "trainer.strategy.init_args.num_clients": 450}
    document = planned(tmp_path, quick(**changes))

    assert document["settings"]["client_batch_size"] == [4] * 150 + [3] * 300
    memory = at(document, "stem.0")["clients"]["memory_byte"]
    assert set(memory[:150]) == {at(document, "stem.0")["client_training_memory_byte"]}
    assert max(memory[150:]) < memory[0]
    assert "450 clients, splitfed_shared, 1 step per round, batches of 4 (all they" in capsys.readouterr().out


def test_more_clients_than_samples_are_refused(tmp_path, capsys):
    recipe = quick(**{"trainer.strategy.init_args.num_clients": 1501})

    said = refusal(["plan", "--config", write(tmp_path, recipe)], capsys)

    assert "num_clients=1501 is more than the training set has samples (1500)" in said


def test_federated_averaging_has_one_row(tmp_path, capsys):
    recipe = quick(**{"trainer.strategy.init_args.algorithm": "fedavg", "trainer.strategy.init_args.cut": None})
    document = planned(tmp_path, recipe)

    (entry,) = document["cuts"]
    weights = sum(parameter.numel() for parameter in SmallResNet(width=2).parameters())
    assert entry["cut"] is None
    assert entry["client_parameters"] == weights
    assert entry["server_forward_flop_per_sample"] == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"^ \(whole model\) +\S", said, re.MULTILINE)) == 1
    assert " P " not in said
    assert "smashed" not in said


def test_the_round_of_the_strategys_cut_is_drawn(tmp_path, here, capsys):
    """A client that cuts elsewhere makes another round; stem.2 ends where stem does."""
    charts = []
    for cut in ("block2", {0: "stem", 1: "stem.2", 2: "block4"}):
        target = tmp_path / f"{len(charts)}.svg"
        recipe = quick(**{"trainer.strategy.init_args.cut": cut})
        main(["plan", "--config", write(tmp_path, recipe), "--gantt", str(target)])
        charts.append(target.read_text())

    for chart in charts:
        rows = re.findall(r"<!-- (client/\d+|server) -->", chart)
        assert rows[: CLIENTS + 1] == ["client/0", "client/1", "client/2", "server"]
    assert charts[0] != charts[1]
    assert list(here.iterdir()) == []


def test_an_existing_chart_is_refused_and_kept(tmp_path, capsys):
    target = tmp_path / "round.svg"
    target.write_text("mine")

    said = refusal(["plan", "--config", write(tmp_path, quick()), "--gantt", str(target)], capsys)

    assert f"gantt={str(target)!r} exists already" in said
    assert target.read_text() == "mine"


def test_a_cut_that_is_not_valid_cannot_be_drawn(tmp_path, capsys):
    recipe = quick(**{"trainer.strategy.init_args.cut": "block1.conv1"})

    said = refusal(["plan", "--config", write(tmp_path, recipe), "--gantt", str(tmp_path / "round.svg")], capsys)

    assert "cut='block1.conv1' is not valid. Valid cuts are 'stem.0'" in said
    assert not (tmp_path / "round.svg").exists()


def test_a_table_that_is_too_wide_becomes_two(tmp_path, capsys):
    changes = {"model.class_path": "cli_models.LongNames", "model.init_args": {}}
    main(["plan", "--config", write(tmp_path, quick(**changes)), "--trainer.strategy.init_args.cut", "null"])

    said = capsys.readouterr().out
    assert len(re.findall(r"^ cut ", said, re.MULTILINE)) == 2
    assert "in order of execution: the model" in said
    assert max(map(len, said.splitlines())) <= 160
    assert "…" not in said


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan of the quick quickstart."""
    return planned(tmp_path_factory.mktemp("usual"), quick())


@pytest.mark.parametrize("model", ["OnMeta", "LooksAtValues"])
def test_a_model_without_weights_or_that_looks_at_values_costs_the_same(usual, tmp_path, capsys, model):
    found = planned(tmp_path, quick(**{"model.class_path": f"cli_models.{model}", "model.init_args": {"width": 2}}))

    for name in ("cut", *MODEL_COLUMNS):
        assert [entry[name] for entry in found["cuts"]] == [entry[name] for entry in usual["cuts"]]
    assert usual["settings"]["cuts_ran_apart"]
    assert found["settings"]["cuts_ran_apart"] == (model == "LooksAtValues")
    assert ("Cuts were found on shapes" in capsys.readouterr().out) == (model == "OnMeta")


def test_halves_of_a_large_model_are_not_run(usual, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan_model, "_MOST_FLOP", 0.0)
    monkeypatch.setattr("lightning_sfl.cut.find.injection_disagreement", pytest.fail)

    found = planned(tmp_path, quick())

    assert found["cuts"] == usual["cuts"]
    assert not found["settings"]["cuts_ran_apart"]


def test_the_model_is_made_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_models.Counted, "made", 0)

    planned(tmp_path, quick(**{"model.class_path": "cli_models.Counted", "model.init_args": {"width": 2}}))

    assert cli_models.Counted.made == 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
def test_bytes_are_those_that_a_run_meters(tmp_path, monkeypatch, capsys, algorithm):
    """Two rounds of one step. Both send state up; the first broadcast has none yet."""
    meters: list[Meter] = []
    made = Meter.__init__

    def kept(self: Meter) -> None:
        made(self)
        meters.append(self)

    monkeypatch.setattr(Meter, "__init__", kept)
    cut = None if algorithm == "fedavg" else "block2"
    changes = {"trainer.strategy.init_args.algorithm": algorithm, "trainer.strategy.init_args.cut": cut}
    recipe = quick(**{**changes, "trainer.logger": False})
    (entry,) = [entry for entry in planned(tmp_path, recipe)["cuts"] if entry["cut"] == cut]

    main(["fit", "--config", write(tmp_path, recipe)])

    up = max(meter.total(uplink=True).payload_byte for meter in meters)
    assert entry["uplink_byte_per_round"] == up / 2
