"""Quantisers for one direction alone: what a policy believes of them is what the link meters and the clock charges."""

import lightning.pytorch as pl
import numpy as np
import pytest
from sfl_models import MLP, fit, sgd

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.callbacks import AdaptiveSplit, EfficiencyMonitor
from lightning_sfl.link.codecs import StochasticUniform
from lightning_sfl.link.message import MessageKind
from lightning_sfl.policies import SFLAM
from lightning_sfl.world.cost.participation import Participation

EIGHT = [StochasticUniform(bits=8)]
BITS = (8, 5, 3, 16)


class Gives(pl.Callback):
    """Other bits for everybody from the second round on."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.round == 0:
            trainer.strategy.allocate(Allocation(bits=BITS))


class Meters(pl.Callback):
    """Bits up and down of every client in the last step, as metered."""

    def __init__(self) -> None:
        self.before, self.last = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = {client: trainer.strategy.link.meter.payload_bit_of(client) for client in batch.participants}
        self.last = {client: counts - self.before.get(client, type(counts)()) for client, counts in now.items()}
        self.before = now


@pytest.mark.parametrize(
    "codecs",
    [
        {"smashed": EIGHT},
        {"cut_gradient": EIGHT},
        {0: {"smashed": EIGHT}, 1: EIGHT, 2: {"cut_gradient": EIGHT}, 3: {"smashed": EIGHT}},
    ],
    ids=["up", "down", "by client"],
)
def test_bits_are_those_of_the_kinds_that_are_quantised(codecs):
    """Labels cross beside the smashed data, as they are."""
    monitor, meters = EfficiencyMonitor(), Meters()
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=4, codecs=codecs)
    fit(MLP.module(sgd), MLP.loader(16, 2), strategy, max_epochs=1, callbacks=[Gives(), monitor, meters])

    everybody = np.arange(4)
    who = Participation(
        clients=everybody,
        cut=monitor.world.profile.index(["model.2"] * 4),
        batch_size=np.full(4, 2),
        bits=np.array(BITS, dtype=np.float64),
    )
    load = monitor.world.step_load(who)
    up, down = (
        [meters.last[client][kind, uplink] for client in everybody.tolist()]
        for kind, uplink in ((MessageKind.SMASHED, True), (MessageKind.CUT_GRADIENT, False))
    )
    labels = [meters.last[client][MessageKind.LABEL, True] for client in everybody.tolist()]
    assert load.uplink_bit.tolist() == [sent + label for sent, label in zip(up, labels, strict=True)]
    assert load.downlink_bit.tolist() == down


class Listens:
    """SFLAM; keeps what it said a round would take, and what the rounds took."""

    def __init__(self) -> None:
        self.said, self.took = [], []

    def decide(self, seen):
        decision = SFLAM().decide(seen)
        self.said.append(decision.figures["round_s"])
        self.took += [passed.delay_s for passed in seen.passed]
        return decision


@pytest.mark.parametrize("codecs", [{"smashed": EIGHT}, EIGHT], ids=["up", "both"])
def test_a_round_takes_what_sflam_said_it_would(codecs):
    """The environment does not fade. The first round was not decided, the last one did not pass before a decision."""
    policy = Listens()
    callbacks = [EfficiencyMonitor(environment="safsl"), AdaptiveSplit(policy)]
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=4, codecs=codecs)
    fit(MLP.module(sgd), MLP.loader(32, 2), strategy, max_epochs=1, callbacks=callbacks)

    assert len(policy.took) == 4
    assert policy.took[1:] == pytest.approx(policy.said[:-1])
