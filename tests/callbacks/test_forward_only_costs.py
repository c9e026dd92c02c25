"""What the world expects of clients that run forward only, against what the link meters in a real fit."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sfl_models import RESNET, adamw, fit, sgd
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.algorithms import HERONSFL, HOSFL, HOSL, ZOSFL
from lightning_sfl.callbacks import EfficiencyMonitor
from lightning_sfl.link.message import MessageKind
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.world import Ends

ALL = pytest.mark.parametrize("algorithm", [HOSFL, HOSL, ZOSFL, HERONSFL])


class Expects(pl.Callback):
    """Compares, after every step and client by client, the bits that the formula expects with those metered."""

    def __init__(self, monitor: EfficiencyMonitor) -> None:
        self.monitor = monitor
        self.before: dict[int, dict] = {}
        self.told = dict.fromkeys(range(4), 0)
        self.steps = 0
        self.missed = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        world, strategy = self.monitor.world, trainer.strategy
        metered = {client: strategy.link.meter.payload_bit_of(client) for client in batch.participants}
        seen = {client: counts - self.before.get(client, type(counts)()) for client, counts in metered.items()}
        self.before |= metered
        clients, sizes = np.array(batch.participants), batch.sizes()
        who = Participation(
            clients=clients,
            cut=world.profile.index([strategy.cuts.of(client) for client in clients.tolist()]),
            batch_size=np.array([sizes[client] for client in clients.tolist()]),
        )
        missed = np.array([self.steps - self.told[client] for client in clients.tolist()])
        step, begins = world.step_load(who), world.round_load(who, Ends(missed_steps=missed))
        for place, client in enumerate(clients.tolist()):
            up = sum(bit for (_, uplink), bit in seen[client].items() if uplink)
            down = sum(bit for (_, uplink), bit in seen[client].items() if not uplink)
            assert up == step.uplink_bit[place]
            assert down == step.downlink_bit[place] + begins.broadcast_bit[place]
            assert seen[client][MessageKind.MISSED_PAIRS, False] == begins.broadcast_bit[place]
            self.missed += begins.broadcast_bit[place] > 0
        self.told |= dict.fromkeys(batch.participants, self.steps + 1)
        self.steps += 1


def headed():
    module = RESNET.module(adamw)
    module.auxiliary_head = nn.Linear(6, 4)
    module.auxiliary_loss = lambda batch, smashed: cross_entropy(module.auxiliary_head(smashed.mean((2, 3))), batch[1])
    return module


@ALL
@pytest.mark.parametrize("cuts", [["model.1"], ["model.0", "model.1"]], ids=["one cut", "two cuts"])
def test_bits_of_every_algorithm(algorithm, cuts):
    """Three of four clients, drawn anew every second step; with two cuts there always are some at either."""
    monitor = EfficiencyMonitor()
    expects = Expects(monitor)
    strategy = SplitFederatedStrategy(
        cut={client: cuts[client % len(cuts)] for client in range(4)},
        num_clients=4,
        algorithm=algorithm(probes=2),
        clients_per_round=3,
        aggregate_every=2,
    )
    fit(headed(), RESNET.loader(30, 4), strategy, max_epochs=3, callbacks=[monitor, expects])
    assert expects.steps > 5
    assert expects.missed > 1
    assert monitor.clock.seconds > 0


@ALL
def test_operations_are_those_that_torch_counts(algorithm):
    """Of one client's step; the head's own, of which the formula knows nothing, are left out of the count."""
    monitor = EfficiencyMonitor()
    counted = []

    class Counts(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

        def on_before_backward(self, trainer, pl_module, loss):
            self.counter.__exit__(None, None, None)
            counted.append(self.counter.get_total_flops())

    strategy = SplitFederatedStrategy(cut="model.1", num_clients=1, algorithm=algorithm(probes=3))
    module = headed()
    if algorithm is HERONSFL:
        module.auxiliary_loss = lambda batch, smashed: smashed.mean() + 0 * module.auxiliary_head.weight.sum()
    fit(module, RESNET.loader(8, 4), strategy, max_epochs=1, callbacks=[monitor, Counts()])
    who = Participation(clients=np.array([0]), cut=np.array([0]), batch_size=np.array([4]))
    load = monitor.world.step_load(who)
    total = load.client_forward_flop + load.client_backward_flop + load.server_flop
    assert counted[-1] == total[0]


def test_who_is_lost_after_its_smashed_data_has_not_probed():
    """Client 1 never gets its gradient: it has the forward pass's time and joules, without those of five more."""

    class Lost:
        def is_lost(self, *, client, stage, round, step):
            return client == 1 and stage == "before_gradient"

    monitors = []
    for attendance in (Lost(), None):
        torch.manual_seed(0)
        monitor = EfficiencyMonitor()
        strategy = SplitFederatedStrategy(
            cut="model.1", num_clients=2, algorithm=HOSFL(probes=5), attendance=attendance, aggregate_every=1
        )
        fit(RESNET.module(sgd), RESNET.loader(8, 4), strategy, max_epochs=1, callbacks=[monitor])
        monitors.append(monitor)
    lost, there = (monitor.clock.client_compute_joule for monitor in monitors)
    assert lost[0] == there[0]
    assert lost[1] == pytest.approx(there[1] / 6)
