"""The monitor in real fits: time and energy are the world's, everything is logged, and training does not notice."""

import csv
from unittest.mock import MagicMock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sfl_models import MLP, fit, quiet_trainer, same, sgd

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.attendance import Stage
from lightning_sfl.callbacks import EfficiencyMonitor
from lightning_sfl.callbacks.client_table import COLUMNS
from lightning_sfl.world.channel.traces import CapacityTrace, TraceChannel
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.environments import Environment, make_environment
from lightning_sfl.world.world import Ends

CUT = "model.2"


def run(monitor, *, callbacks=(), epochs=2, **options):
    """Four clients with eight samples each, in batches of four; rounds of two steps."""
    arguments = {"cut": CUT, "num_clients": 4, "aggregate_every": 2, **options}
    strategy = SplitFederatedStrategy(**{k: v for k, v in arguments.items() if k not in ("logger", "ckpt_path")})
    module = MLP.module(sgd)
    extra = {"logger": options["logger"], "log_every_n_steps": 1} if "logger" in options else {}
    trainer = fit(
        module, MLP.loader(32, 4), strategy, max_epochs=epochs, callbacks=[*callbacks, *([monitor] if monitor else [])],
        **extra,
    )  # fmt: skip
    return trainer, module


def everybody(world, controls=None):
    return Participation(
        clients=np.arange(4),
        cut=np.zeros(4, dtype=np.int64),
        batch_size=np.full(4, 4),
        controls=controls or Controls(),
    )


def by_hand(world, rounds, controls=lambda round: Controls()):
    """The clock of whole rounds as the world costs them."""
    clock = Clock()
    for round in range(rounds):
        ends = Ends(first=round == 0)
        clock.advance(world.round(everybody(world, controls(round)), ends, round=round, start_s=clock.seconds))
    return clock


@pytest.mark.parametrize("environment", ["wei_chen", "safsl"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_simulated_time_and_energy_are_those_of_the_worlds_rounds(environment, algorithm):
    """Two epochs of two steps, which are two rounds."""
    monitor = EfficiencyMonitor(environment=environment)
    run(monitor, algorithm=algorithm)

    expected = by_hand(monitor.world, 2)
    assert (monitor.clock.steps, monitor.clock.rounds) == (expected.steps, expected.rounds) == (4, 2)
    assert monitor.clock.seconds == pytest.approx(expected.seconds, rel=1e-12)
    assert monitor.clock.client_compute_joule == pytest.approx(expected.client_compute_joule, rel=1e-12)
    assert monitor.clock.client_radio_joule == pytest.approx(expected.client_radio_joule, rel=1e-12)
    assert monitor.clock.server_radio_joule == pytest.approx(expected.server_radio_joule, rel=1e-12)
    assert monitor.clock.server_compute_joule == pytest.approx(expected.server_compute_joule, rel=1e-12)


def test_a_u_shape_has_the_time_and_energy_of_its_turns():
    monitor = EfficiencyMonitor()
    run(monitor, cut=("model.1", "model.3"))

    expected = by_hand(monitor.world, 2)
    assert monitor.world.step_load(everybody(monitor.world)).turn_flop.min() > 0
    assert monitor.clock.seconds == pytest.approx(expected.seconds, rel=1e-12)
    assert monitor.clock.client_compute_joule == pytest.approx(expected.client_compute_joule, rel=1e-12)
    assert monitor.clock.client_radio_joule == pytest.approx(expected.client_radio_joule, rel=1e-12)
    assert monitor.clock.server_compute_joule == pytest.approx(expected.server_compute_joule, rel=1e-12)


def test_federated_averaging_waits_for_the_slowest_only_at_the_average():
    monitor = EfficiencyMonitor()
    run(monitor, algorithm="fedavg", cut=None)

    assert monitor.clock.seconds == pytest.approx(by_hand(monitor.world, 2).seconds, rel=1e-12)


def test_a_channel_whose_rate_changes_with_time_sees_the_time_that_has_passed():
    """The trace delivers nothing in every second of two, so that when one sends matters."""
    trace = CapacityTrace.of_rates(np.array([0.0, 1.0, 2.0]), np.array([2e4, 0.0]))
    plain = make_environment("hasfl", 4, 0)
    channel = TraceChannel.one_each([trace] * 4, [trace] * 4)
    monitor = EfficiencyMonitor(environment=Environment(fleet=plain.fleet, channel=channel, server=plain.server))
    run(monitor)

    assert monitor.clock.seconds == pytest.approx(by_hand(monitor.world, 2).seconds, rel=1e-9)
    assert monitor.clock.seconds > 1


class LosesClient1:
    """In its first round before the forward pass, in its second before the gradient."""

    def is_lost(self, *, client, stage, round, step):
        return client == 1 and stage is (Stage.BEFORE_FORWARD, Stage.BEFORE_GRADIENT)[round]


def test_a_lost_client_costs_what_it_did():
    """In the first round it only receives the weights; in the second it computes and sends one batch, gets no gradient,
    and goes no way back. It uploads nothing."""
    monitor = EfficiencyMonitor()
    run(monitor, attendance=LosesClient1())

    world = monitor.world
    step = world.step(everybody(world), round=1)
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in monitor.clients.rows()}
    assert rows[1]["uplink_bytes"] == step.load.uplink_bit[1] / 8
    assert rows[1]["downlink_bytes"] == 2 * world.profile.update_bit[0] / 8 + world.profile.optimizer_state_bit[0] / 8
    watt = world.fleet.compute_watt(np.array([1]))[0]
    assert monitor.clock.client_compute_joule[1] == pytest.approx(watt * step.forward_s[1], rel=1e-12)
    assert monitor.clock.client_radio_joule[1] == pytest.approx(step.radio_joule[1], rel=1e-12)
    assert rows[0]["uplink_bytes"] > 4 * rows[1]["uplink_bytes"]


def test_every_fit_has_a_time_of_its_own():
    monitor = EfficiencyMonitor()
    states = [run(monitor) and monitor.state_dict() for _ in range(2)]
    assert states[0] == states[1]


def test_training_does_not_notice():
    states = []
    for monitor in (None, EfficiencyMonitor()):
        _, module = run(monitor)
        states.append((module.state_dict(), torch.get_rng_state()))
    assert same(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def resumed(tmp_path, at_step, make, **options):
    """The monitor of a whole run, and of one that goes on from its checkpoint after a step."""
    whole, later = make(), make()
    arguments = {"cut": CUT, "num_clients": 4, "aggregate_every": 3, **options}
    for monitor, path in ((whole, None), (later, tmp_path / f"step={at_step}.ckpt")):
        pl.seed_everything(1, verbose=False)
        saves = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = quiet_trainer(
            max_epochs=4,
            strategy=SplitFederatedStrategy(**arguments),
            callbacks=[monitor, Powers(), saves],
            enable_checkpointing=True,
        )
        trainer.fit(MLP.module(sgd), MLP.loader(32, 4), ckpt_path=path)
    return whole, later


class Powers(pl.Callback):
    """Half the power, clock and bandwidth from the second round on."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.round == 0 and batch.closes_round:
            half = Allocation(transmit_power_watt=[0.9] * 4, clock_hz=[3e8] * 4, bandwidth_hz=[4e7] * 4)
            trainer.strategy.allocate(half)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("at_step", [1, 3, 4, 5])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "fedavg"])
def test_a_resumed_run_has_the_same_clock_bit_for_bit(tmp_path, at_step, algorithm):
    """In mid-round, at its end, and after clients were given other power, clock and bandwidth."""
    cut = {"cut": None} if algorithm == "fedavg" else {}
    whole, later = resumed(tmp_path, at_step, EfficiencyMonitor, algorithm=algorithm, **cut)

    assert later.state_dict() == whole.state_dict()
    assert later.clock.steps == 8


def test_allocated_power_clock_and_bandwidth_count_from_the_next_round_on():
    monitor = EfficiencyMonitor()
    run(monitor, callbacks=[Powers()])

    four = np.ones(4)
    half = Controls(power_watt=0.9 * four, clock_hz=3e8 * four, bandwidth_hz=4e7 * four)
    expected = by_hand(monitor.world, 2, lambda round: half if round else Controls())
    assert monitor.clock.seconds == pytest.approx(expected.seconds, rel=1e-12)
    assert monitor.clock.client_radio_joule == pytest.approx(expected.client_radio_joule, rel=1e-12)
    assert monitor.clock.seconds > 1.2 * by_hand(monitor.world, 2).seconds


def test_what_is_logged_and_shown(tmp_path):
    monitor = EfficiencyMonitor()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer, _ = run(monitor, logger=logger)

    with (tmp_path / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    steps = [line for line in lines if line["delay/step_s"]]
    rounds = [line for line in lines if line["delay/round_s"]]
    assert (len(steps), [line["round"] for line in rounds]) == (4, ["0.0", "1.0"])
    world, total = monitor.world, trainer.strategy.link.meter.total
    cost = world.round(everybody(world), Ends(first=True))
    assert float(rounds[0]["delay/round_s"]) == pytest.approx(cost.total_s)
    assert float(rounds[1]["delay/simulated_s"]) == pytest.approx(monitor.clock.seconds)
    assert float(rounds[0]["energy/client_joule"]) == pytest.approx((cost.compute_joule + cost.radio_joule).sum())
    server = cost.server_compute_joule + cost.server_radio_joule
    assert float(rounds[0]["energy/server_joule"]) == pytest.approx(server)
    assert sum(float(line["comm/uplink_bytes"]) for line in rounds) == total(uplink=True).payload_byte
    assert sum(float(line["comm/downlink_bytes"]) for line in rounds) == total(uplink=False).payload_byte
    (last,) = [line for line in lines if line["comm/total_bytes"]]
    assert float(last["comm/total_bytes"]) == total().payload_byte
    assert float(last["delay/total_s"]) == pytest.approx(monitor.clock.seconds)
    every = [world.round(everybody(world), Ends(first=round == 0), round=round) for round in (0, 1)]
    joule = sum((c.compute_joule + c.radio_joule).sum() + c.server_compute_joule + c.server_radio_joule for c in every)
    assert float(last["energy/total_joule"]) == pytest.approx(joule)
    step = cost.steps[0]
    assert float(steps[0]["delay/step_s"]) == pytest.approx(step.total_s)
    assert float(steps[0]["delay/straggler"]) == step.straggler
    assert float(steps[0]["comm/step_uplink_bytes"]) == step.load.uplink_bit.sum() / 8
    assert float(steps[0]["comm/step_downlink_bytes"]) == step.load.downlink_bit.sum() / 8
    joule = (step.compute_joule + step.radio_joule).sum()
    assert float(steps[0]["energy/step_client_joule"]) == pytest.approx(joule)
    assert float(steps[0]["memory/client_bytes"]) == world.profile.training_memory_byte(0, 4)
    shown = trainer.progress_bar_metrics
    assert shown["round"] == 1
    assert shown["simulated_s"] == pytest.approx(monitor.clock.seconds)


def test_the_table_of_clients_is_the_sum_of_what_each_one_did(tmp_path):
    monitor = EfficiencyMonitor()
    run(monitor, logger=CSVLogger(tmp_path, name="", version=""))

    with (tmp_path / "clients.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["client"] for row in table] == ["0", "1", "2", "3"]
    world = monitor.world
    costs = [world.round(everybody(world), Ends(first=round == 0), round=round) for round in (0, 1)]
    for client, row in enumerate(table):
        assert float(row["delay_s"]) == pytest.approx(sum(cost.client_s[client] for cost in costs))
        joule = sum(cost.compute_joule[client] + cost.radio_joule[client] for cost in costs)
        assert float(row["energy_joule"]) == pytest.approx(joule)
        assert float(row["peak_memory_bytes"]) == world.profile.training_memory_byte(0, 4)


def test_rounds_are_logged_no_more_often_than_steps(tmp_path):
    monitor = EfficiencyMonitor()
    strategy = SplitFederatedStrategy(cut=CUT, num_clients=4)
    logger = CSVLogger(tmp_path, name="", version="")
    fit(
        MLP.module(sgd), MLP.loader(32, 4), strategy, max_epochs=4, callbacks=[monitor], logger=logger,
        log_every_n_steps=3,
    )  # fmt: skip

    with (tmp_path / "metrics.csv").open() as file:
        rounds = [line["round"] for line in csv.DictReader(file) if line["delay/round_s"]]
    assert rounds == ["0.0", "3.0", "6.0"]


def test_wandb_gets_a_table_and_draws_rounds_over_rounds():
    experiment = MagicMock()
    run(EfficiencyMonitor(), logger=WandbLogger(experiment=experiment))

    defined = {call.args[0]: call.kwargs for call in experiment.define_metric.call_args_list if call.args[0] != "*"}
    assert defined["delay/round_s"] == defined["comm/*"] == {"step_metric": "round"}
    (table,) = (
        call.args[0]["report/clients"] for call in experiment.log.call_args_list if "report/clients" in call.args[0]
    )
    assert table.columns == list(COLUMNS)
    assert [row[0] for row in table.data] == [0, 1, 2, 3]


def test_loggers_of_text_get_the_table_as_text():
    class Board(CSVLogger):
        @property
        def experiment(self):
            return board

    board = MagicMock()
    run(EfficiencyMonitor(), logger=Board("."))

    ((name, text),) = (call.args for call in board.add_text.call_args_list)
    assert name == "report/clients"
    assert text.splitlines()[0] == " | ".join(COLUMNS)
    assert len(text.splitlines()) == 6


def test_what_is_not_modelled_is_not_logged(tmp_path):
    """HASFL knows no energy."""
    run(EfficiencyMonitor(environment="hasfl"), logger=CSVLogger(tmp_path, name="", version=""))

    with (tmp_path / "metrics.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    assert "delay/round_s" in columns
    assert not [column for column in columns if column.startswith("energy/")]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"environment": "mars"}, ValueError, "environment='mars' is not known. Accepted are 'hasfl', 'wei_chen'"),
        ({"environment": make_environment("hasfl", 3, 0)}, ValueError, "Fleet is for 3 clients, but num_clients=4"),
    ],
)
def test_environments_that_do_not_go_with_the_run_are_refused(options, error, said):
    with pytest.raises(error, match=said):
        run(EfficiencyMonitor(**options))


def test_other_strategies_are_refused():
    with pytest.raises(MisconfigurationException, match="strategy=SingleDeviceStrategy"):
        fit(MLP.module(sgd), MLP.loader(8, 4), "auto", max_epochs=1, callbacks=[EfficiencyMonitor()])
    with pytest.raises(ValueError, match="flop_per_mac=3 is not accepted"):
        EfficiencyMonitor(flop_per_mac=3)
