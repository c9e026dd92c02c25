"""What the world expects of steps and rounds, against what the link meters and torch counts in a real fit."""

import lightning.pytorch as pl
import numpy as np
import pytest
from sfl_models import BERT, GPT2, KINDS, MLP, RESNET, U_SHAPES, Kind, adamw, fit, sgd
from torch.nn.functional import pad
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.callbacks import EfficiencyMonitor
from lightning_sfl.link.codecs import StochasticUniform
from lightning_sfl.link.message import MessageKind
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.world import Ends, World

STEP_UP = (MessageKind.SMASHED, MessageKind.LABEL, MessageKind.MASK, MessageKind.INPUT)
DOWN = (MessageKind.BROADCAST, False), (MessageKind.OPTIMIZER_STATE, False)
UP = (MessageKind.CLIENT_UPDATE, True), (MessageKind.OPTIMIZER_STATE, True)


class Expects(pl.Callback):
    """Compares, after every step and client by client, the bits that the formula expects with those metered."""

    def __init__(self, monitor: EfficiencyMonitor, *, with_state: bool, bits=None) -> None:
        self.monitor = monitor
        self.bits = bits
        self.with_state = with_state
        self.before: dict[int, dict] = {}
        self.previous_deepest = None
        self.moved = 0
        self.compared = set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        world, strategy = self.monitor.world, trainer.strategy
        metered = {client: strategy.link.meter.payload_bit_of(client) for client in batch.participants}
        seen = {client: counts - self.before.get(client, type(counts)()) for client, counts in metered.items()}
        self.before |= metered
        self.step(world, strategy, batch, seen)
        self.round(world, strategy, batch, seen)

    def step(self, world: World, strategy, batch, seen):
        clients = np.array(list(batch))
        bits = None if self.bits is None else np.array(self.bits(batch.round), dtype=np.float64)[clients]
        load = world.step_load(who(world, strategy, clients, batch.sizes(), bits))
        for place, client in enumerate(clients.tolist()):
            up = sum(bit for (kind, uplink), bit in seen[client].items() if uplink and kind in STEP_UP)
            assert up == load.uplink_bit[place]
            assert seen[client][MessageKind.CUT_GRADIENT, False] == load.downlink_bit[place]
            assert seen[client][MessageKind.SERVER_OUTPUT, False] == load.turn_down_bit[place]
            assert seen[client][MessageKind.OUTPUT_GRADIENT, True] == load.turn_up_bit[place]
            self.compared |= {"step"} if up else set()

    def round(self, world: World, strategy, batch, seen):
        clients = np.array(batch.participants)
        deepest = int(world.profile.index(strategy.cuts.names).max()) if world.rule.uses_cut else None
        begins = any(seen[client][DOWN[0]] for client in seen)
        named = None if deepest is None else world.profile.cuts[deepest]
        moves = begins and self.previous_deepest not in (None, named)
        previous = int(world.profile.index([self.previous_deepest])[0]) if moves else None
        ends = Ends(optimizer_state=self.with_state, first=batch.round == 0, deepest=deepest, previous_deepest=previous)
        load = world.round_load(who(world, strategy, clients, {}), ends)
        for place, client in enumerate(clients.tolist()):
            if begins:
                assert sum(seen[client][key] for key in DOWN) == load.broadcast_bit[place]
                self.compared.add("broadcast")
            if batch.closes_round:
                assert sum(seen[client][key] for key in UP) == load.update_bit[place]
                self.compared.add("update")
        if begins:
            self.previous_deepest = named
            self.moved += load.handover_bit
        assert strategy.link.meter.payload_bit_of(None).total() == self.moved


def who(world: World, strategy, clients, sizes, bits=None) -> Participation:
    cuts = [strategy.cuts.of(client) for client in clients.tolist()]
    return Participation(
        clients=clients,
        cut=world.profile.index(cuts) if world.rule.uses_cut else np.zeros_like(clients),
        batch_size=np.array([sizes.get(client, 1) for client in clients.tolist()]),
        bits=bits,
    )


def loader(kind: Kind, size: int, batch_size: int) -> DataLoader:
    """Texts are padded to one length: formulas are for samples of one shape."""
    plain = kind.loader(size, batch_size)

    def collate(records):
        batch = plain.collate_fn(records)
        if not isinstance(batch, dict):
            return batch
        ends = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        return {k: pad(v, (0, 8 - v.shape[1]), value=ends[k]) if v.ndim == 2 else v for k, v in batch.items()}

    return DataLoader(plain.dataset, batch_size=batch_size, collate_fn=collate)


def run(kind: Kind, make_optimizer=sgd, *, callbacks=(), bits=None, precision="32-true", **options):
    monitor = EfficiencyMonitor()
    with_state = options.get("client_optimizer_state", "average") == "average"
    expects = Expects(monitor, with_state=with_state, bits=bits)
    strategy = SplitFederatedStrategy(**{"num_clients": 4, "server_inputs": kind.server_inputs, **options})
    joined = [monitor, expects, *callbacks]
    fit(kind.module(make_optimizer), loader(kind, 30, 4), strategy, max_epochs=2, callbacks=joined, precision=precision)
    return expects


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bits_of_every_kind_of_model(kind):
    """Short last batches, masks and labels included."""
    expects = run(kind, adamw, cut=kind.cuts[-1], aggregate_every=2)
    assert expects.compared == {"step", "broadcast", "update"}


@pytest.mark.parametrize("algorithm", ["splitfed_v1", "splitfed_v2", "split_learning", "fedavg"])
@pytest.mark.parametrize("state", ["average", "reset", "keep"])
def test_bits_of_every_algorithm(algorithm, state):
    cut = {} if algorithm == "fedavg" else {"cut": "model.1"}
    expects = run(
        RESNET, adamw, algorithm=algorithm, client_optimizer_state=state, clients_per_round=3, aggregate_every=3, **cut
    )
    assert expects.compared == ({"step"} if cut else set()) | {"broadcast", "update"}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "cut"), U_SHAPES, ids=lambda value: getattr(value, "name", None))
def test_bits_of_u_shapes(kind, cut):
    expects = run(kind, adamw, cut=cut, aggregate_every=2)
    assert expects.compared == {"step", "broadcast", "update"}
    assert expects.monitor.world.profile.returned_bit[0, 1] > 0


class Moves(pl.Callback):
    """Other cuts and batch sizes from the second round on, and from the fourth."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        cuts = {0: [0, 1, 2, 0], 2: [0, 1, 0, 1]}.get(batch.round)
        if batch.closes_round and cuts:
            named = [f"model.{place}" for place in cuts]
            trainer.strategy.allocate(Allocation(cut=named, batch_size=[1, 2, 3, 4]))


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_bits_where_cuts_differ_and_move(algorithm):
    """The deepest cut goes from the second module to the third and back; V1 shares no layer that could change hands."""
    expects = run(RESNET, sgd, cut="model.1", algorithm=algorithm, callbacks=[Moves()])
    assert expects.compared == {"step", "broadcast", "update"}
    assert (expects.moved > 0) == (algorithm == "splitfed_shared")
    assert len(expects.monitor.world.profile.cuts) == 3


BITS = [[8, 8, 8, 8], [1, 5, 16, 32], [3, 7, 9, 8]]


class Requantises(pl.Callback):
    """Other bits from the second round on, and from the third."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.closes_round and batch.round < 2:
            trainer.strategy.allocate(Allocation(bits=BITS[batch.round + 1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cut", "precision"),
    [
        (RESNET, "model.1", "64-true"),
        (RESNET, "model.1", "bf16-mixed"),
        (BERT, BERT.cuts[-1], "32-true"),
        (*U_SHAPES[0], "32-true"),
        (*U_SHAPES[0], "bf16-mixed"),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_bits_of_quantisers_that_differ_by_client_and_change_by_round(kind, cut, precision):
    expects = run(
        kind,
        sgd,
        cut=cut,
        aggregate_every=2,
        codecs=[StochasticUniform(bits=8)],
        callbacks=[Requantises()],
        bits=lambda round: BITS[min(round, 2)],
        precision=precision,
    )
    assert expects.compared == {"step", "broadcast", "update"}


class Counts(pl.Callback):
    """Counts the FLOPs of a step; it stands before the monitor, whose own runs are not to count."""

    flop = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.counter = FlopCounterMode(display=False)
        self.counter.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.counter.__exit__(None, None, None)
        self.flop, self.batch = self.counter.get_total_flops(), batch


@pytest.mark.parametrize(
    ("kind", "cut"),
    [*((kind, kind.cuts[1]) for kind in (RESNET, MLP, GPT2, BERT)), *U_SHAPES[:1], *U_SHAPES[2:4]],
    ids=lambda value: getattr(value, "name", None),
)
def test_flops_are_those_of_a_real_step(kind, cut):
    """Every client's forward and backward pass with the server's, counted by torch in the second step of a fit: the
    first one checks the cut as well."""
    monitor, counts = EfficiencyMonitor(), Counts()
    strategy = SplitFederatedStrategy(cut=cut, num_clients=3, server_inputs=kind.server_inputs)
    fit(kind.module(sgd), loader(kind, 24, 4), strategy, max_steps=2, max_epochs=1, callbacks=[counts, monitor])

    load = monitor.world.step_load(who(monitor.world, strategy, np.arange(3), counts.batch.sizes()))
    client = load.client_forward_flop + load.turn_flop + load.client_backward_flop
    assert counts.flop == (client + load.server_flop + load.return_flop).sum() > 0
