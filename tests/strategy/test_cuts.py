"""Cuts that differ from client to client, and cuts that move between rounds."""

import dataclasses
import itertools

import lightning.pytorch as pl
import pytest
import torch
from round_cases import (
    ALGORITHMS,
    Loses,
    adamw,
    assert_close,
    big_batch,
    data,
    descent,
    job,
    momentum,
    network,
    straight,
    train,
)
from sfl_models import Classifier, quiet_trainer, same
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl.allocation import Allocation
from lightning_sfl.link.codecs import NearestUniform

# A run that goes on from a checkpoint is told so where it has other callbacks than the run that wrote it.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")

WITH_CUT = ALGORITHMS[:4]
MIXED = {0: "model.2", 1: "model.5", 2: "model.3"}
MOVES = {4: Allocation(cut=["model.5", "model.2", "model.5"]), 7: Allocation(cut=["model.2", "model.3", "model.2"])}
OWN = [[f"model.{name}" for name in network().state_dict() if int(name[0]) < depth] for depth in range(9)]
"""Names of what stands before a layer."""


def to(*cuts: str) -> Allocation:
    return Allocation(cut=cuts)


# Equal to one fixed cut, or to plain training


@pytest.mark.parametrize("state", ["average", "keep", "reset"])
def test_splitfed_v1_does_not_depend_on_cuts_that_differ_or_move(state):
    """Bit for bit, with AdamW and batch normalisation, under partial participation; the cut at the end is FedAvg."""
    options = {"optimizer": adamw, "client_optimizer_state": state, "clients_per_round": 2}
    fixed = train("model.2", algorithm="splitfed_v1", **options)
    assert same(train(MIXED, algorithm="splitfed_v1", **options).weights, fixed.weights)
    moved = train("model.2", algorithm="splitfed_v1", plan=MOVES, **options)
    assert len({tuple(cuts) for cuts in moved.asks.cuts}) == 3
    assert same(moved.weights, fixed.weights)
    assert same(train(algorithm="fedavg", **options).weights, fixed.weights)


def plain(steps, parts, batch_size) -> dict[str, torch.Tensor]:
    """The same network, data and seed in plain Lightning."""
    module = Classifier(network(), adamw, schedule=False)
    pl.seed_everything(1, verbose=False)
    trainer = quiet_trainer(max_epochs=-1, max_steps=steps, precision="64-true")
    trainer.fit(module, DataLoader(TensorDataset(*data(parts)), batch_size=batch_size, shuffle=True))
    return module.model.state_dict()


@pytest.mark.parametrize("state", ["average", "keep"])
@pytest.mark.parametrize("algorithm", WITH_CUT)
def test_one_client_whose_cut_moves_to_and_fro_is_plain_training(algorithm, state):
    """Bit for bit, with AdamW, whose moments go with the layers, and batch normalisation."""
    plan = {1: to("model.5"), 5: to("model.2"), 6: to("model.6"), 8: to("model.5")}
    found = train(
        plan=plan, parts=[[*range(18)]], algorithm=algorithm, aggregate_every=2,
        optimizer=adamw, client_optimizer_state=state,
    )  # fmt: skip
    assert [cuts[0][-1] for cuts in found.asks.cuts] == list("225555226655")
    assert same(found.weights, plain(12, 18, 4))


@pytest.mark.parametrize("cut", [MIXED, "model.2", "model.8"])
def test_with_one_step_per_round_every_cut_is_the_big_batch(cut):
    """Gradient descent without batch normalisation: the mean of steps is the step on the mean, wherever layers stand.

    12 samples in every step, or 10 where client 2 has a short batch.
    """
    found = train(cut, aggregate_every=1, optimizer=descent, norm=False, steps=7)
    assert_close(found.weights, big_batch(found.asks.steps, network(norm=False)))


# Equal to the straight-line loop


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2", "split_learning"])
def test_layers_before_the_deepest_cut_are_each_clients_own(algorithm, optimizer):
    """Cuts after layers 2, 5 and 3: six layers are a client's own, whichever side computes them; four are common.

    The loop at any other depth ends elsewhere.
    """
    steps = 18 if algorithm == "splitfed_v2" else 9
    found = train(MIXED, algorithm=algorithm, optimizer=optimizer, steps=steps)
    told = job(found, optimizer)
    assert_close(found.weights, straight(told, algorithm, own=6))
    if algorithm != "split_learning":  # one set of weights is one set of weights, wherever it stands
        for depth in (3, 4):
            with pytest.raises(AssertionError, match="not close"):
                assert_close(found.weights, straight(told, algorithm, own=depth))


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_when_the_deepest_cut_moves_layers_become_common_and_cease_to_be(algorithm, optimizer):
    """Three layers are the clients' in the first round, six in the next two, four in the last."""
    length = 9 if algorithm == "splitfed_v2" else 3
    plan = {length - 1: to("model.2", "model.5", "model.5"), 2 * length: to("model.5", "model.5", "model.3"),
            3 * length - 2: to("model.2", "model.3", "model.2")}  # fmt: skip
    found = train(plan=plan, algorithm=algorithm, optimizer=optimizer, steps=4 * length)
    assert_close(found.weights, straight(job(found, optimizer), algorithm, own=[3, 6, 6, 4]))


@pytest.mark.parametrize("algorithm", WITH_CUT)
def test_the_loss_of_the_first_step_after_a_move_is_what_it_would_have_been(algorithm):
    """To rounding; the cut moves by three layers at once. Later losses differ, but for SplitFed-V1 and a relay."""
    length = 9 if algorithm == "splitfed_v2" else 3
    options = {"algorithm": algorithm, "optimizer": adamw, "steps": 2 * length + 3}
    found, still = (train(plan=plan, **options).asks for plan in ({length: to(*["model.5"] * 3)}, None))
    assert found.cuts[2 * length] != still.cuts[2 * length]
    torch.testing.assert_close(found.losses[: 2 * length + 1], still.losses[: 2 * length + 1], rtol=1e-12, atol=0)


# When


@pytest.mark.parametrize(
    ("hook", "first"),
    [
        *[("on_train_batch_start", step) for step in (0, 3, 4, 5)],
        *itertools.product(("on_before_backward", "on_before_zero_grad", "on_train_batch_end"), (3, 5)),
        ("on_validation_end", 3),
        ("on_validation_end", 5),
        ("on_train_epoch_end", 5),
        ("on_train_epoch_start", -1),
        ("on_train_start", -1),
    ],
)  # fmt: skip
def test_a_move_takes_effect_at_the_next_round_whatever_hook_asked_for_it(hook, first):
    """Rounds of three steps: asked for from the first moment of round k to its last, it comes with round k + 1.

    Before the first step it comes with the first round. Batch sizes come with it.
    """
    wanted = ["model.5", "model.4", "model.5"]
    found = train(
        plan={first: Allocation(cut=wanted, batch_size=[2, 2, 2])},
        hook=hook, steps=9, val="validation" in hook,
        trainer_options={"val_check_interval": 1, "limit_train_batches": 2} if "validation" in hook else
        {"limit_train_batches": 3},
    )  # fmt: skip
    begins = 3 * ((first + 3) // 3)
    assert found.asks.cuts == [["model.2"] * 3] * begins + [wanted] * (9 - begins)
    sizes = [max(map(len, step.values())) for step in found.asks.steps]
    assert sizes == [4] * begins + [2] * (9 - begins)


def test_the_last_of_several_wishes_within_a_round_counts():
    plan = {3: to(*["model.5"] * 3), 4: to(*["model.4"] * 3), 5: Allocation(batch_size=[2, 2, 2])}
    found = train(plan=plan, steps=7)
    assert found.asks.cuts[-1] == ["model.4"] * 3
    assert [len(step[0]) for step in found.asks.steps] == [4] * 6 + [2]


def test_wishes_of_every_round_come_one_after_the_other():
    """Rounds of one step: what is asked for before step k + 1 does not replace what was asked for before step k.

    Bits, power and batch sizes come with the cuts.
    """
    names = ["model.2", "model.5", "model.4", "model.3"]
    plan = {
        step: Allocation(
            cut=[names[step % 4]] * 3, bits=[4 + step] * 3, batch_size=[1 + step % 4] * 3, clock_hz=[1e8 + step] * 3
        )
        for step in range(8)
    }

    class Notes(pl.Callback):
        def __init__(self):
            self.clocks = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.clocks.append(trainer.strategy.controls.at(batch.round).get("clock_hz", [None])[0])

    notes = Notes()
    found = train(
        plan=plan, hook="on_train_batch_start", steps=8, aggregate_every=1, callbacks=[notes],
        codecs=[NearestUniform(bits=8)], parts=[list(range(32 * c, 32 * c + 32)) for c in range(3)], norm=False,
    )  # fmt: skip

    began = [names[0], *(names[step % 4] for step in range(7))]
    assert found.asks.cuts == [[name] * 3 for name in began]
    assert [len(step[0]) for step in found.asks.steps] == [4, *(1 + step % 4 for step in range(7))]
    assert notes.clocks == [None, *(1e8 + step for step in range(7))]
    sent = [next(iter(m.codings.values())) for m in found.log.messages() if m.kind == "smashed" and m.client == 0]
    assert [str(coding.chain) for coding in sent] == [
        f"NearestUniform(bits={bits})" for bits in (8, *(4 + step for step in range(7)))
    ]


# Messages


def test_every_client_sends_and_gets_what_belongs_to_its_own_cut():
    found = train(MIXED, steps=3, optimizer=momentum)
    width = {"model.2": 8, "model.5": 7, "model.3": 7}
    depth = {"model.2": 3, "model.5": 6, "model.3": 4}
    for message in found.log.messages():
        assert message.cut == MIXED[message.client]
        if message.kind in ("broadcast", "client_update"):
            assert list(message.tensors) == sorted(OWN[depth[message.cut]], key=lambda n: "running" in n or "num" in n)
        elif message.kind in ("smashed", "cut_gradient"):
            assert message.tensors["0"].shape == (
                len(found.asks.steps[message.step][message.client]),
                width[message.cut],
            )
    assert {message.client for message in found.log.messages(kinds=["smashed"])} == {0, 1, 2}


def moved_layers(found):
    """(round, step, sender, receiver, names, bits) of what changed hands."""
    return [
        (m.round, m.step, m.sender, m.receiver, sorted(m.tensors), m.payload_bit)
        for m in found.log.messages(kinds=["moved_layers"])
    ]


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "split_learning"])
def test_layers_that_change_hands_are_messages(algorithm):
    """Layers 3 to 5: 7 · 8 weights, 2 · 7 of the norm's, 2 · 7 running statistics and a count, 85 numbers of 64 bits.

    They go to the federation server when the deepest cut passes them, and back when it does again. A move that leaves
    the deepest cut where it is sends nothing.
    """
    plan = {2: to("model.2", "model.5", "model.2"), 5: to("model.5", "model.2", "model.3"), 8: to(*["model.2"] * 3)}
    found = train(plan=plan, algorithm=algorithm, steps=12, optimizer=adamw)
    names = [name for name in network().state_dict() if name[0] in "345"]
    names = sorted(f"model.{name}" for name in names)
    assert moved_layers(found) == [
        (1, 3, "server", "fed_server", names, 85 * 64),
        (3, 9, "fed_server", "server", names, 85 * 64),
    ]
    states = [m for m in found.log.messages(kinds=["optimizer_state"]) if m.client is None]
    assert [(m.round, m.sender) for m in states] == [(1, "server"), (3, "fed_server")]
    assert all(len(m.tensors) == 9 for m in states)  # two moments and a count for each of three parameters


def test_nothing_changes_hands_where_nothing_moves_or_the_server_has_no_common_layers():
    assert moved_layers(train(MIXED, plan={2: to(*MIXED.values())}, steps=6)) == []
    assert moved_layers(train(plan=MOVES, algorithm="splitfed_v1")) == []


# Reading in mid-round


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_readers_in_mid_round_see_the_weighted_mean_with_mixed_and_moved_cuts(algorithm):
    """After every step: the loop that stops there ends with that model. One client is lost in between."""
    lost = {(2, "after_forward", 4)}
    looked = []

    class Looks(pl.Callback):
        def on_validation_end(self, trainer, module):
            looked.append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})
            shown = trainer.strategy.global_weights()
            assert same({f"model.{name}": tensor for name, tensor in looked[-1].items()}, shown)

    found = train(
        MIXED, plan={1: to(*["model.3"] * 3)}, algorithm=algorithm, steps=8, val=True, callbacks=[Looks()],
        attendance=Loses(lost), trainer_options={"val_check_interval": 1},
    )  # fmt: skip
    told = job(found, momentum)
    assert len(looked) == 8
    for number, weights in enumerate(looked, start=1):
        so_far = dataclasses.replace(told, steps=told.steps[:number])
        assert_close(weights, straight(so_far, algorithm, own=[6, 4], lost=lost))


# Resuming


@pytest.mark.parametrize(("algorithm", "workers"), [("splitfed_shared", 2), ("splitfed_v2", 0)])
def test_resuming_is_bit_for_bit_with_cuts_that_differ_and_move(algorithm, workers, tmp_path):
    """Saved with mixed cuts in mid-round (1 step), after allocate() and before its effect (4), after a move (8)."""
    plan = {2: Allocation(cut=["model.5", "model.2", "model.3"], batch_size=[2, 4, 3]), 5: to(*["model.4"] * 3)}
    options = {"algorithm": algorithm, "optimizer": adamw, "workers": workers, "aggregate_every": 2, "steps": 11}
    if algorithm == "splitfed_v2":
        plan = {3: plan[2], 8: plan[5]}
        options["steps"] = 15
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = train(MIXED, plan=plan, callbacks=[saving], trainer_options={"enable_checkpointing": True}, **options)
    for step in (1, 4, 8) if not workers else (4, 7):
        rest = {place - step: wish for place, wish in plan.items() if place >= step}
        module = Classifier(network(), adamw, schedule=False)
        path = tmp_path / f"step={step}.ckpt"
        gone_on = train(MIXED, plan=rest, module=module, ckpt_path=path, **options)
        assert gone_on.asks.steps == whole.asks.steps[step:]
        assert gone_on.asks.cuts == whole.asks.cuts[step:]
        assert same(gone_on.weights, whole.weights)
