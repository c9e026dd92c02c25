"""The monitor in runs in which clients skip, are lost or look around, and in a precision of another device."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from sfl_models import MLP, Classifier, fit, mlp, sgd
from torch import nn

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.attendance import Stage
from lightning_sfl.callbacks import EfficiencyMonitor
from lightning_sfl.callbacks.client_table import COLUMNS
from lightning_sfl.callbacks.costed import Happened, cost_step
from lightning_sfl.callbacks.crossed import Crossed, CrossedSince
from lightning_sfl.cut.find import search
from lightning_sfl.link.message import MessageKind
from lightning_sfl.strategy.autocast import train_step_context
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import Controls
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.world import Ends

CUT = "model.2"

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


def run(*, module=None, epochs=2, trainer_options=None, **options):
    """Four clients with eight samples each, in batches of four; rounds of two steps."""
    monitor = EfficiencyMonitor()
    strategy = SplitFederatedStrategy(**{"cut": CUT, "num_clients": 4, "aggregate_every": 2, **options})
    module = module or MLP.module(sgd)
    given = {**(trainer_options or {})}
    callbacks = [*given.pop("callbacks", []), monitor]
    trainer = fit(module, MLP.loader(32, 4), strategy, max_epochs=epochs, callbacks=callbacks, **given)
    return monitor, trainer


def in_the_table(monitor, column):
    return sum(row[COLUMNS.index(column)] for row in monitor.clients.rows())


def metered(trainer):
    total = trainer.strategy.link.meter.total
    return total(uplink=True).payload_byte, total(uplink=False).payload_byte


class Loses:
    def __init__(self, is_lost):
        self._is_lost = is_lost

    def is_lost(self, *, client, stage, round, step):
        return self._is_lost(client, stage, round)


class Skips(Classifier):
    """Skips some of its batches, counted over the clients, or those that begin with the label of the very first one."""

    skipped = frozenset()
    skips_like_first = False

    def __init__(self):
        super().__init__(mlp(), sgd)
        self.seen, self.first = 0, None

    def training_step(self, batch, batch_idx):
        self.seen += 1
        loss = super().training_step(batch, batch_idx)
        label = int(batch[1][0])
        self.first = label if self.first is None else self.first
        is_skipped = self.seen - 1 in self.skipped or (self.skips_like_first and label == self.first)
        return None if is_skipped else loss


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "fedavg"])
def test_a_run_whose_first_step_everybody_skips(algorithm):
    module = Skips()
    module.skipped = frozenset(range(4))
    monitor, trainer = run(module=module, algorithm=algorithm, **({"cut": None} if algorithm == "fedavg" else {}))

    assert (in_the_table(monitor, "uplink_bytes"), in_the_table(monitor, "downlink_bytes")) == metered(trainer)
    assert monitor.clock.rounds == 2


def test_a_run_in_which_everybody_skips_everything():
    module = Skips()
    module.skipped = frozenset(range(100))
    monitor, trainer = run(module=module)

    assert metered(trainer) == (0, 0)
    assert (monitor.clients.rows(), monitor.clock.seconds, monitor.world) == ([], 0.0, None)


def test_a_client_that_skips_its_batch_is_not_the_one_to_measure():
    module = Skips()
    module.skips_like_first = True
    monitor, trainer = run(module=module)

    assert (in_the_table(monitor, "uplink_bytes"), in_the_table(monitor, "downlink_bytes")) == metered(trainer)
    assert monitor.world.profile.client_forward_flop[0, 1] == 2 * 192 * 16


@pytest.mark.parametrize("stage", [Stage.BEFORE_FORWARD, Stage.AFTER_FORWARD])
def test_a_run_whose_first_participants_are_all_lost(stage):
    monitor, trainer = run(attendance=Loses(lambda client, at, round: round == 0 and at is stage))

    assert (in_the_table(monitor, "uplink_bytes"), in_the_table(monitor, "downlink_bytes")) == metered(trainer)
    assert monitor.clock.rounds == 1


class LooksAround(Classifier):
    """Asks its trainer, its optimizer and its logger in the step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("rate", self.optimizers().param_groups[0]["lr"])
        self.log("share", batch_idx / self.trainer.num_training_batches)
        self.logger.log_metrics({"looked": 1.0})
        self.logged = [*getattr(self, "logged", []), self.global_step]
        return loss


def test_a_step_that_asks_its_trainer_and_logs_by_itself(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    counted, write = [], logger.log_metrics
    logger.log_metrics = lambda metrics, step=None: (counted.append(metrics), write(metrics, step))
    module = LooksAround(mlp(), sgd)
    monitor, _ = run(module=module, trainer_options={"logger": logger, "log_every_n_steps": 1})

    assert monitor.clock.steps == 4
    assert sum("looked" in metrics for metrics in counted) == 16, "the step that is measured logs nothing"
    assert len(module.logged) == 16


def test_who_is_lost_before_the_upload_has_computed_to_the_end():
    """Without a cut: the last step of the round as well as those before it, but no upload."""
    lost, _ = run(
        cut=None, algorithm="fedavg", epochs=1,
        attendance=Loses(lambda client, at, round: client == 1 and at is Stage.BEFORE_UPLOAD),
    )  # fmt: skip
    whole, _ = run(cut=None, algorithm="fedavg", epochs=1)

    assert lost.clock.client_compute_joule == whole.clock.client_compute_joule
    assert lost.clock.client_radio_joule.get(1, 0.0) == 0.0 < whole.clock.client_radio_joule[1]


def test_a_round_that_nobody_ends_is_over_before_the_next_one_begins():
    """Without a cut, everybody lost before the first upload: the second round begins when the first was computed."""
    monitor, _ = run(
        cut=None, algorithm="fedavg", clients_per_round=2, epochs=1,
        attendance=Loses(lambda client, at, round: round == 0 and at is Stage.BEFORE_UPLOAD),
    )  # fmt: skip
    world, schedule = monitor.world, schedule_of_two()
    expected = 0.0
    for round in (0, 1):
        clients = np.array(schedule.participants(round))
        who = Participation(clients=clients, cut=np.zeros_like(clients), batch_size=np.full(2, 4))
        cost = world.round(who, Ends(first=True), round=round)
        upload = cost.closing.upload_s if round == 0 else 0.0
        expected += float((cost.client_s - upload).max()) + (cost.closing.aggregation_s if round else 0.0)
    assert monitor.clock.seconds == pytest.approx(expected, rel=1e-12)


def schedule_of_two():
    strategy = SplitFederatedStrategy(cut=CUT, num_clients=4)
    return strategy.algorithm.schedule(num_clients=4, clients_per_round=2, steps_per_round=2, seed=strategy.seed)


def test_the_worlds_rounds_have_as_many_batches_as_the_runs():
    monitor, _ = run(trainer_options={"accumulate_grad_batches": 2})
    assert monitor.world.aggregate_every == 4


@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla is imported:UserWarning")
@pytest.mark.parametrize(("name", "bit"), [("bf16-mixed", 16), ("16-mixed", 16)])
def test_mixed_precision_of_a_gpu_holds_for_a_copy_on_the_cpu(name, bit):
    """A model is measured on a copy on the CPU; what crosses has 16 bits there as on the GPU."""
    scaler = torch.amp.GradScaler("cpu") if name == "16-mixed" else None
    precision = MixedPrecision(name, "cuda", scaler=scaler)
    module, batch = MLP.module(sgd), next(iter(MLP.loader(4, 4)))

    def step(copied: nn.Module, own: object) -> object:
        with train_step_context(precision, copied):
            return copied.training_step(own, 0)

    found = profile_cuts(module, batch, {"model.1": search(module, batch).split("model.1")}, step=step)
    assert found.smashed_bit[0, 1] == bit * 16


def test_a_round_whose_last_step_everybody_skips_ends_with_the_next_one():
    """Its updates cross when the next round begins."""
    module = Skips()
    module.skipped = frozenset(range(4, 8))
    late, trainer = run(module=module)

    assert late.clock.rounds == 2
    assert (in_the_table(late, "uplink_bytes"), in_the_table(late, "downlink_bytes")) == metered(trainer)


def test_layers_that_servers_exchange_take_the_line_between_them():
    """At 1000 bit/s: 10 kbit handed over, and what each participant's layers up to the deepest cut are more than its
    own, with the optimizer's state; the deepest cut is that of a client that takes no part."""
    monitor, _ = run(epochs=1, cut={0: CUT, 1: CUT, 2: CUT, 3: "model.4"})
    world = dataclasses.replace(
        monitor.world, server=dataclasses.replace(monitor.world.server, inter_server_bit_per_s=1e3)
    )
    nothing = np.zeros(3)
    happened = Happened(
        round=0, clients=np.arange(3), cut=np.zeros(3, dtype=np.int64), deepest=1, batch_size=np.array([4, 0, 4]),
        present=np.ones(3, dtype=bool), closes_round=False, controls=Controls(),
        crossed=Crossed(
            step_up=nothing, step_down=nothing, turn_up=nothing, turn_down=nothing, round_up=nothing,
            round_down=np.full(3, 800.0), scalars_up=nothing, handed_over=1e4
        ),
    )  # fmt: skip
    costed = cost_step(world, happened, Clock())

    sent = world.profile.update_bit + world.profile.optimizer_state_bit
    assert sent[1] - sent[0] == 2 * 32 * (16 * 12 + 12), "weights and momentum"
    assert [part.inter_server_s for part in costed.parts] == [pytest.approx(10.0 + 3 * 2 * 32 * 204 / 1e3)]
    assert costed.memory_byte.tolist() == [costed.memory_byte[0], 0, costed.memory_byte[0]]


class Moves(pl.Callback):
    """Cuts move to one that the first profile has not."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.round == 0 and batch.closes_round:
            trainer.strategy.allocate(Allocation(cut=[CUT, CUT, CUT, "model.4"]))


def test_a_cut_that_the_profile_has_not_is_measured_when_it_is_taken():
    monitor, _ = run(trainer_options={"callbacks": [Moves()]})

    assert monitor.world.profile.cuts == (CUT, "model.4")


def test_a_look_sees_only_what_crossed_since_the_last_one():
    bits = {
        None: Counter({(MessageKind.CLIENT_UPDATE, True): 64}),
        0: Counter({(MessageKind.OPTIMIZER_STATE, True): 8}),
    }
    since = CrossedSince(SimpleNamespace(payload_bit_of=lambda client: Counter(bits[client])))
    looks = [since.look(np.array([0])) for _ in range(2)]

    assert [look.handed_over for look in looks] == [64, 0]
    assert [look.round_up.tolist() for look in looks] == [[8], [0]]
    assert looks[0].step_up.tolist() == [0]


def test_a_resumed_run_knows_when_rounds_were_logged():
    monitor = EfficiencyMonitor()
    monitor.load_state_dict({**monitor.state_dict(), "logs_from_step": 7})
    assert monitor.state_dict()["logs_from_step"] == 7
