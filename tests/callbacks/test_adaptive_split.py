"""Policies in real fits: what they see, what changes, what is refused, and what a resumed run remembers."""

import csv
import dataclasses
import itertools
import logging
import math

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from sfl_models import MLP, fit, quiet_trainer, same, sgd

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.callbacks import AdaptiveSplit, EfficiencyMonitor
from lightning_sfl.policies.decision import Decision
from lightning_sfl.policies.moments import GradientMoments
from lightning_sfl.world.channel.fading import FastRayleigh
from lightning_sfl.world.environments import wei_chen


class Keeps:
    """Leaves everything as it is, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen = []

    def decide(self, seen):
        self.seen.append(seen)
        return Decision(allocation=Allocation(), figures={"seconds_s": 1.5})


SIZES = (2, 2, 4, 8)
"""Two steps of each end where a pass through eight samples ends, or in the middle of it."""


class Deeper(Keeps):
    """Every client one cut deeper with every decision and batches of SIZES, as its memory says."""

    def decide(self, seen):
        super().decide(seen)
        turn = seen.memory.get("turn", 0)
        cuts = len(seen.world.profile.cuts)
        return Decision(
            allocation=seen.allocation(
                cut=(seen.clients + turn) % cuts, batch_size=np.full(len(seen.clients), SIZES[turn % 4])
            ),
            reason=f"turn {turn}",
            memory={"turn": turn + 1},
        )


class Watches(pl.Callback):
    """What every step was: round, cuts, batch sizes."""

    def __init__(self) -> None:
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        cuts = trainer.strategy.cuts
        self.steps.append((batch.round, [cuts.of(client) for client in range(4)], sorted(batch.sizes().items())))


def run(adaptive, *, epochs=4, callbacks=(), monitor=None, trainer_options=None, **options):
    """Four clients with eight samples each, in batches of four; rounds of two steps, which an epoch has."""
    strategy = SplitFederatedStrategy(**{"cut": "model.2", "num_clients": 4, "aggregate_every": 2, **options})
    module = MLP.module(sgd)
    watches = Watches()
    found = [watches, monitor or EfficiencyMonitor(), *([adaptive] if adaptive else []), *callbacks]
    trainer = fit(module, MLP.loader(32, 4), strategy, max_epochs=epochs, callbacks=found, **(trainer_options or {}))
    return trainer, module, watches


def test_decisions_hold_from_the_next_round_on():
    """Rounds 1, 2, 3 are decided after 0, 1, 2. Four cuts: client i of decision t cuts at the (i + t)-th."""
    adaptive = AdaptiveSplit(Deeper())
    _, _, watches = run(adaptive)

    names = adaptive.policy.seen[0].world.profile.cuts
    assert names == ("model.1", "model.2", "model.3", "model.4")
    assert watches.steps[:2] == [(0, ["model.2"] * 4, [(client, 4) for client in range(4)])] * 2
    for round in (1, 2, 3):
        cuts = [names[(client + round - 1) % 4] for client in range(4)]
        assert (
            watches.steps[2 * round : 2 * round + 2] == [(round, cuts, [(c, SIZES[round - 1]) for c in range(4)])] * 2
        )


def test_every_other_round():
    adaptive = AdaptiveSplit(Deeper(), every=2, cuts=["model.3", "model.1"])
    _, _, watches = run(adaptive)
    assert [(seen.round, seen.rounds) for seen in adaptive.policy.seen] == [(2, 2), (4, 2)]
    assert [len(seen.passed) for seen in adaptive.policy.seen] == [2, 2]
    assert watches.steps[3][1] == ["model.2"] * 4
    assert adaptive.policy.seen[0].world.profile.cuts == ("model.1", "model.2", "model.3")  # the one in use as well
    assert watches.steps[4][1] == ["model.1", "model.2", "model.3", "model.1"]


def test_a_policy_sees_gains_of_the_instant_or_their_means():
    """``wei_chen`` fades from round to round."""
    mean = wei_chen(4, seed=0).channel.uplink_gain
    for csi, differ in (("instantaneous", True), ("statistical", False)):
        adaptive = AdaptiveSplit(Keeps(), csi=csi)
        run(adaptive, monitor=EfficiencyMonitor(environment=wei_chen(4, seed=0)))
        seen = [found.world.channel.uplink_gain for found in adaptive.policy.seen]
        assert len(seen) == 4
        assert all((gain != mean).all() == differ for gain in seen)
        assert all((gain == mean).all() != differ for gain in seen)


@pytest.mark.parametrize(
    ("fast", "csi", "times"), [(True, "instantaneous", 1), (True, "statistical", 0), (False, "instantaneous", 0)]
)
def test_decisions_that_may_be_stale_are_said_to_be_once(fast, csi, times, caplog):
    """A run that goes on knows that it was said."""
    environment = wei_chen(4, seed=0)
    if fast:
        channel = dataclasses.replace(environment.channel, fading=FastRayleigh(coherence_s=0.01))
        environment = dataclasses.replace(environment, channel=channel)
    with caplog.at_level(logging.INFO):
        adaptive, resumed = AdaptiveSplit(Keeps(), csi=csi), AdaptiveSplit(Keeps(), csi=csi)
        run(adaptive, monitor=EfficiencyMonitor(environment=environment))
    assert sum("may be stale when bits are sent" in record.message for record in caplog.records) == times
    resumed.load_state_dict(adaptive.state_dict())
    assert resumed.state_dict()["said_stale"] is (times == 1)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "ho_sfl"])
def test_a_policy_that_only_looks_changes_nothing(algorithm):
    looks, alone = (run(found, algorithm=algorithm)[1] for found in (AdaptiveSplit(Keeps()), None))
    assert same(looks.state_dict(), alone.state_dict())


def test_what_rounds_cost_is_what_the_clock_shows():
    adaptive, monitor = AdaptiveSplit(Keeps()), EfficiencyMonitor()
    run(adaptive, monitor=monitor)
    passed = [passed for seen in adaptive.policy.seen for passed in seen.passed]
    assert [found.round for found in passed] == [0, 1, 2, 3]
    assert math.fsum(found.delay_s for found in passed) == pytest.approx(monitor.clock.seconds)
    joule = monitor.clock.client_compute_joule[2] + monitor.clock.client_radio_joule[2]
    assert math.fsum(found.joule[2] for found in passed) == pytest.approx(joule)


def test_those_who_take_part_next_are_decided_for():
    adaptive = AdaptiveSplit(Deeper())
    run(adaptive, clients_per_round=2, epochs=6)
    schedule = adaptive.policy.seen
    assert all(len(seen.clients) == 2 for seen in schedule)
    assert len({tuple(seen.clients.tolist()) for seen in schedule}) > 1
    for seen, later in itertools.pairwise(schedule):
        assert [found.clients.tolist() for found in later.passed] == [seen.clients.tolist()]


def test_gradients_are_measured_while_it_trains(caplog):
    """σ² and G² need two steps, β two intervals. The gap is the mean loss; the defaults are said once."""
    adaptive = AdaptiveSplit(Keeps())
    with caplog.at_level(logging.INFO):
        run(adaptive, epochs=10)
    first, *later = [seen.statistics for seen in adaptive.policy.seen]
    assert first.variance != 16.0
    assert first.smoothness == 10.0
    assert not first.is_measured
    assert later[-1].is_measured
    assert later[-1].smoothness != 10.0
    assert all(0.5 < found.loss_gap < 3 for found in (first, *later))
    assert sum("defaults stand in" in record.message for record in caplog.records) == 1


def test_gradients_are_told_apart_by_party_and_batch(monkeypatch):
    """Two steps of four clients with 4 samples each: everybody's weights are the same in the first of a round alone. A
    client's gradient is that of a batch of 4, in its half and in none of the server's, which has one of 16."""
    steps, inverse = [], []
    end_step, add = GradientMoments.end_step, GradientMoments.add

    def ends(self, client_inverse_batch, *, begins_round):
        steps.append((client_inverse_batch, begins_round))
        end_step(self, client_inverse_batch, begins_round=begins_round)

    def adds(self, gradients, inverse_batch):
        inverse.append((sorted({name.split(".")[1] for name in gradients}), inverse_batch))
        add(self, gradients, inverse_batch)

    monkeypatch.setattr(GradientMoments, "end_step", ends)
    monkeypatch.setattr(GradientMoments, "add", adds)
    run(AdaptiveSplit(Keeps()), epochs=2)

    assert steps == [(1 / 4, True), (1 / 4, False)] * 2
    assert inverse == [(["3", "5"], 1 / 16), *[(["1"], 1 / 4)] * 4] * 4


def test_decisions_are_logged_and_shown(tmp_path, caplog):
    logger = CSVLogger(tmp_path, name="", version="")
    adaptive = AdaptiveSplit(Deeper())
    with caplog.at_level(logging.INFO):
        trainer, _, _ = run(adaptive, trainer_options={"logger": logger, "log_every_n_steps": 1})

    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    sizes = [float(row["policy/mean_batch_size"]) for row in rows if row["policy/mean_batch_size"]]
    assert sizes == [2, 2, 4, 8]
    assert trainer.progress_bar_metrics["mean_batch_size"] == 8
    table = list(csv.reader((tmp_path / "decisions.csv").read_text().splitlines()))
    assert table[0] == ["round", "clients", "cuts", "batch_sizes", "bits", "controls", "reason"]
    assert table[2] == ["2", "4", "1 × model.1, 1 × model.2, 1 × model.3, 1 × model.4", "4 × 2", "", "", "turn 1"]
    assert "Deeper, from round 2: 4 of 4 clients changed. turn 1" in caplog.text


class Slower(Keeps):
    """Gives client i a clock of (i + 2) · 100 MHz, and everybody half a watt."""

    def decide(self, seen):
        each = np.arange(2, 6) * 100e6
        return Decision(allocation=seen.allocation(clock_hz=each, transmit_power_watt=np.full(4, 0.5)))


def test_clocks_and_powers_are_logged_and_in_the_table(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    adaptive = AdaptiveSplit(Slower())
    run(adaptive, epochs=1, trainer_options={"logger": logger})

    assert adaptive.decisions == [[1, 4, "4 × model.2", "4 × 4", "", "0.5 W, 200 to 500 MHz clock", ""]]
    (row,) = [
        row
        for row in csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
        if row["policy/mean_clock_hz"]
    ]
    assert (float(row["policy/mean_clock_hz"]), float(row["policy/mean_transmit_power_watt"])) == (350e6, 0.5)


class Wrong(Keeps):
    """Gives client 2 a cut there is not, from round 2 on."""

    def decide(self, seen):
        if seen.round < 2:
            return super().decide(seen)
        return Decision(allocation=Allocation(cut=["model.1", "model.1", "model.9", "model.1"]))


class Weights(pl.Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def test_training_stops_before_a_step_with_what_is_refused():
    """After round 1, of two steps: the fifth step is never made."""
    weights = Weights()
    with pytest.raises(ValueError, match=r"Wrong decided what is not accepted: cut='model\.9' is not among the 4 cuts"):
        run(AdaptiveSplit(Wrong()), callbacks=[weights])
    assert len(weights.found) == 3


def test_what_is_no_decision_is_refused():
    class Odd:
        def decide(self, seen):
            return Allocation()

    with pytest.raises(ValueError, match="Odd decided Allocation.*; give a Decision"):
        run(AdaptiveSplit(Odd()))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_stopped_run_decides_as_one_that_was_not(tmp_path, stop):
    """Stopped in the middle of a round, at its end, and a step behind: weights, clock and decisions are the same."""
    whole, first, second = (AdaptiveSplit(Deeper()) for _ in range(3))
    clocks = [EfficiencyMonitor() for _ in range(3)]
    _, expected, _ = run(whole, monitor=clocks[0], epochs=5)
    saves = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1, filename="{step}")
    run(first, monitor=clocks[1], epochs=5, callbacks=[saves], trainer_options={"enable_checkpointing": True})

    strategy = SplitFederatedStrategy(cut="model.2", num_clients=4, aggregate_every=2)
    module = MLP.module(sgd)
    again = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    trainer = quiet_trainer(
        strategy=strategy, max_epochs=5, callbacks=[clocks[2], second, again], enable_checkpointing=True
    )
    trainer.fit(module, MLP.loader(32, 4), ckpt_path=str(tmp_path / f"step={stop}.ckpt"))

    assert second.decisions == whole.decisions
    assert clocks[2].clock.seconds == clocks[0].clock.seconds
    assert same(module.state_dict(), expected.state_dict())
    delays = [[found.delay_s for seen in adaptive.policy.seen for found in seen.passed] for adaptive in (whole, second)]
    assert delays[1] == delays[0][-len(delays[1]) :]
    assert [seen.statistics.smoothness for seen in second.policy.seen] == [
        seen.statistics.smoothness for seen in whole.policy.seen[-len(second.policy.seen) :]
    ]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"csi": "mean"}, "csi='mean' is not accepted: give one of 'instantaneous', 'statistical'"),
        ({"every": 0}, "every=0 is not accepted: give an integer of at least 1, in rounds"),
        ({"every": True}, "every=True"),
        ({"policy": None}, "policy=None is not accepted: it has no decide"),
        ({"cuts": "model.1"}, "cuts='model.1' is not accepted: give several cuts"),
        ({"cuts": ["a", "a"]}, "each once"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveSplit(**{"policy": Keeps(), **arguments})


def test_a_monitor_stands_before_it():
    for callbacks in ([], [EfficiencyMonitor()]):
        strategy = SplitFederatedStrategy(cut="model.2", num_clients=4)
        with pytest.raises(MisconfigurationException, match="put a lightning_sfl.callbacks.EfficiencyMonitor before"):
            fit(
                MLP.module(sgd),
                MLP.loader(32, 4),
                strategy,
                max_epochs=1,
                callbacks=[AdaptiveSplit(Keeps()), *callbacks],
            )


@pytest.mark.parametrize("options", [{"algorithm": "fedavg", "cut": None}, {"cut": ("model.1", "model.3")}])
def test_there_has_to_be_a_cut_to_choose(options):
    with pytest.raises(MisconfigurationException, match="there is not one cut per client to choose"):
        run(AdaptiveSplit(Keeps()), **options)


def test_another_strategy_is_refused():
    trainer = quiet_trainer(max_epochs=1, callbacks=[AdaptiveSplit(Keeps())])
    with pytest.raises(MisconfigurationException, match="strategy=SingleDeviceStrategy"):
        trainer.fit(MLP.module(sgd), MLP.loader(32, 4))


def test_cuts_that_are_not_valid_are_refused_in_the_first_step():
    with pytest.raises(ValueError, match="model.7"):
        run(AdaptiveSplit(Keeps(), cuts=["model.1", "model.7"]))
