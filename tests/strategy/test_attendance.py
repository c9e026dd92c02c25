"""Clients that are lost at every stage, in every algorithm, against a straight-line loop."""

import lightning.pytorch as pl
import pytest
import torch
from round_cases import ALGORITHMS, Loses, adamw, assert_close, data, job, momentum, network, straight, train
from sfl_models import same
from torch.nn.functional import cross_entropy

from lightning_sfl.algorithms import make_algorithm
from lightning_sfl.allocation import Allocation
from lightning_sfl.attendance import Stage
from lightning_sfl.schedule import Schedule

# Lightning says so where a whole step is left out, and where a run goes on with other callbacks than it began with.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
]

STAGES = ("before_forward", "after_forward", "before_gradient", "before_upload")
SEQUENTIAL = ("splitfed_v2", "split_learning")


def ends_as_the_loop_says(lost, algorithm, *, optimizer=momentum, every=3, steps=9, own=3, per_round=3, **options):
    """Train with these lost, and compare with the loop; the loop with nobody lost must differ."""
    found = train(
        algorithm=algorithm,
        attendance=Loses(lost),
        optimizer=optimizer,
        aggregate_every=every,
        steps=steps,
        clients_per_round=per_round,
        **options,
    )
    rules = {key: options[key] for key in ("weighting",) if key in options}
    if "client_optimizer_state" in options:
        rules["state"] = options["client_optimizer_state"]
    told = job(found, optimizer, every=every, per_round=per_round, **rules)
    assert len(told.steps) == steps
    assert_close(found.weights, straight(told, algorithm, own=own, lost=lost))
    return found, told


def turns(algorithm, every, per_round=3) -> Schedule:
    """Whose turn is when, of three clients."""
    kind = make_algorithm(algorithm).schedule
    return kind(num_clients=3, clients_per_round=per_round, steps_per_round=every, seed=0)


def one_in_each_round(algorithm, every, stages, per_round=3):
    """In round k somebody is lost at stage k, in the round's first, second or last step in turn.

    Where a step is one client's, that client is lost.
    """
    schedule, lost, step = turns(algorithm, every, per_round), set(), 0
    for number, stage in enumerate(stages):
        places = [at for at in range(step, step + 3 * every) if schedule.turn(at).round == number]
        at = places[-1] if stage == "before_upload" else places[number % len(places)]
        clients = schedule.turn(at).clients
        lost.add((clients[number % len(clients)], stage, at))
        step = places[-1] + 1
    return lost, step


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_clients_lost_at_any_stage_count_as_the_loop_says(algorithm, every):
    """A stage for each of four rounds, and a fifth in which all are there. The first loss is in the run's first step.

    With any one of them there after all, the loop ends elsewhere.
    """
    lost, end = one_in_each_round(algorithm, every, STAGES)
    steps = end + every
    found, told = ends_as_the_loop_says(lost, algorithm, every=every, steps=steps)
    for one in lost:
        with pytest.raises(AssertionError, match="not close"):
            assert_close(found.weights, straight(told, algorithm, lost=lost - {one}))


@pytest.mark.parametrize("stage", ["after_forward", "before_gradient", "before_upload"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "splitfed_v2"])
def test_the_very_first_client_of_the_run_is_lost(algorithm, stage):
    """In step 0, whose first pass is the watched one."""
    lost = {(turns(algorithm, 1).turn(0).clients[0], stage, 0)}
    ends_as_the_loop_says(lost, algorithm, steps=4, every=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_several_are_lost_at_several_stages_of_one_round(algorithm):
    """AdamW, one after the other until one is left; in the next round all are there again."""
    if algorithm in SEQUENTIAL:
        holders = [turns(algorithm, 3).turn(step).clients[0] for step in range(12)]
        lost = {(holders[at], stage, at) for at, stage in ((1, STAGES[2]), (3, STAGES[1]), (11, STAGES[0]))}
    else:
        lost = {(2, "before_gradient", 1), (0, "after_forward", 2), (1, "before_forward", 3), (1, "before_upload", 8)}
    ends_as_the_loop_says(lost, algorithm, steps=18 if algorithm in SEQUENTIAL else 9, optimizer=adamw)


@pytest.mark.parametrize("weighting", ["data", "uniform"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_weightings_are_those_of_who_is_left(algorithm, weighting):
    lost, steps = one_in_each_round(algorithm, 3, STAGES[1:3])
    ends_as_the_loop_says(lost, algorithm, steps=steps, weighting=weighting)


@pytest.mark.parametrize(
    ("algorithm", "first"), [("splitfed_v2", 1), ("splitfed_v2", 10), *[(a, 2) for a in ALGORITHMS]]
)
def test_everybody_is_lost_in_the_first_steps_of_the_run(algorithm, first):
    """They stay lost for the rest of that round, and are there in the next one.

    Nothing is known of the cut before the first who is there.
    """
    lost = {(client, "before_forward", step) for client in range(3) for step in range(first)}
    ends_as_the_loop_says(lost, algorithm, steps=18 if algorithm in SEQUENTIAL else 6)


@pytest.mark.parametrize("stage", ["after_forward", "before_upload"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_round_of_which_all_are_lost_clients_have_what_they_had_and_the_server_keeps_its_steps(
    algorithm, stage
):
    """One round of three steps of each: the layers before the cut end as they began, bit for bit.

    A single server copy has trained on the steps before the last, and on the last one too if the loss came after it.
    """
    steps = 9 if algorithm == "splitfed_v2" else 3
    in_vain = range(2, steps) if algorithm == "splitfed_v2" and stage == "after_forward" else [steps - 1]
    lost = {(client, stage, step) for client in range(3) for step in in_vain}
    found, _ = ends_as_the_loop_says(lost, algorithm, steps=steps)
    begun = network().state_dict()
    has_replicas = algorithm in ("splitfed_v1", "fedavg")
    owned = [name for name in begun if has_replicas or name[0] in "012"]
    assert same({name: found.weights[name] for name in owned}, {name: begun[name] for name in owned})
    assert torch.equal(found.weights["9.weight"], begun["9.weight"]) == has_replicas


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "fedavg"])
@pytest.mark.parametrize("state", ["average", "reset", "keep"])
def test_a_client_that_comes_back_starts_from_the_global_model_and_its_own_kept_state(algorithm, state):
    """Lost in the second of four rounds, after it has kept optimizer state in the first: what it had then it has again.

    Of the second round nothing is kept.
    """
    lost = {(1, "before_upload", 5), (0, "before_forward", 4)}
    ends_as_the_loop_says(lost, algorithm, steps=12, optimizer=adamw, client_optimizer_state=state)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lost_ones_under_partial_participation(algorithm):
    lost, steps = one_in_each_round(algorithm, 2, STAGES[1:3], per_round=2)
    ends_as_the_loop_says(lost, algorithm, steps=steps, every=2, per_round=2)


@pytest.mark.parametrize("algorithm", ["splitfed_v2", "splitfed_shared"])
def test_who_is_lost_before_the_upload_is_asked_of_the_round_at_hand(algorithm):
    """Also where nobody trains in its last step."""
    attendance = Loses({(client, "before_forward", 8) for client in range(3)})
    found = train(algorithm=algorithm, steps=18, attendance=attendance)
    for step, rounds in attendance.rounds.items():
        assert rounds == {found.asks.rounds[step]}


def test_what_a_lost_client_has_sent_is_what_it_had_reached():
    """In the second round: client 0 is lost before its forward, 1 after it, 2 before its gradient, all in step 4.

    Client 1 has sent smashed data and labels, as 2 has, and neither gets a gradient; nobody sends an update.
    """
    lost = {(0, "before_forward", 4), (1, "after_forward", 4), (2, "before_gradient", 4)}
    found = train(steps=9, attendance=Loses(lost))
    sent = {}
    for message in found.log.messages():
        sent.setdefault((message.round, message.step), []).append((str(message.kind), message.client))
    up = {"smashed", "label"}
    assert {(kind, client) for kind, client in sent[1, 4]} == {(kind, client) for kind in up for client in (1, 2)}
    assert (1, 5) not in sent  # and they stay lost
    for number in (0, 2):
        updates = [client for kind, client in sent[number, 3 * number + 2] if kind == "client_update"]
        assert updates == [0, 1, 2]
    assert len(sent[2, 7]) == 9  # smashed data, labels and gradients of three


def test_an_update_lost_before_the_upload_is_not_sent():
    found = train(steps=6, attendance=Loses({(1, "before_upload", 2)}), optimizer=adamw)
    updates = [(message.round, message.client) for message in found.log.messages(kinds=["client_update"])]
    assert updates == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    states = [m.client for m in found.log.messages(kinds=["optimizer_state"]) if m.is_uplink and m.round == 0]
    assert states == [0, 2]


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_the_loss_of_a_step_is_that_of_those_who_are_there(algorithm):
    """Client 0 is lost in the second step: 4 and 2 samples are left, whose mean loss it is. Nothing moves."""
    found = train(
        algorithm=algorithm,
        norm=False,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        attendance=Loses({(0, "before_forward", 1)}),
        steps=3,
    )
    images, labels = data()
    for step, (batches, loss) in enumerate(zip(found.asks.steps, found.asks.losses, strict=True)):
        seen = [place for client, own in batches.items() if client or not step for place in own]
        assert loss == pytest.approx(cross_entropy(network(norm=False)(images[seen]), labels[seen]).item(), abs=1e-12)


def test_stages_have_the_names_the_loop_uses():
    assert [str(stage) for stage in Stage] == list(STAGES)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_a_client_lost_in_mid_round_is_still_lost_after_resuming_there(algorithm, tmp_path):
    """Lost in step 3, saved after it; attendance is asked about later steps alone, and says nothing more."""
    length = 9 if algorithm == "splitfed_v2" else 3
    clients = turns(algorithm, 3).turn(length).clients
    lost = {(clients[0], "before_gradient", length)}
    options = {"algorithm": algorithm, "optimizer": adamw, "steps": 2 * length + 1}
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    saves = {"callbacks": [saving], "trainer_options": {"enable_checkpointing": True}}
    whole = train(attendance=Loses(lost), **saves, **options)
    gone_on = train(ckpt_path=tmp_path / f"step={length + 1}.ckpt", attendance=Loses(set()), **options)
    assert same(gone_on.weights, whole.weights)
    assert_close(whole.weights, straight(job(whole, adamw), algorithm, lost=lost))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_is_lost_before_anybody_trained_is_still_lost_after_resuming_there(algorithm, stop, tmp_path):
    """All are lost in steps 0 and 1, saved after one, two or four; attendance says nothing more after that.

    Meanwhile the cut was to move at the second round: what was planned is in the checkpoint too.
    """
    lost = {(client, "before_forward", step) for client in range(3) for step in range(2)}
    options = {"algorithm": algorithm, "optimizer": adamw, "steps": 12}
    plan = {} if algorithm == "fedavg" else {0: Allocation(cut=["model.5"] * 3)}
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    saves = {"callbacks": [saving], "trainer_options": {"enable_checkpointing": True}}
    whole = train(attendance=Loses(lost), plan=plan, **saves, **options)
    rest = {one for one in lost if one[2] >= stop}
    gone_on = train(ckpt_path=tmp_path / f"step={stop}.ckpt", attendance=Loses(rest), **options)
    assert same(gone_on.weights, whole.weights)
    assert gone_on.asks.cuts[-1] == whole.asks.cuts[-1]
    assert whole.asks.cuts[-1] == ([None] * 3 if algorithm == "fedavg" else ["model.5"] * 3)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_what_is_planned_before_the_first_step_of_a_run_that_goes_on_is_in_the_next_checkpoint(tmp_path):
    """A run goes on from step 4, plans to move the cut, and is stopped before it has made a step; so the next one."""

    class Saves(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.strategy.allocate(Allocation(cut=["model.5"] * 3))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / "again.ckpt")
            raise KeyboardInterrupt

    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    train(steps=4, callbacks=[saving], trainer_options={"enable_checkpointing": True})
    whole = train(ckpt_path=tmp_path / "step=4.ckpt", plan={-1: Allocation(cut=["model.5"] * 3)}, hook="on_train_start")
    assert whole.asks.cuts[-1] == ["model.5"] * 3
    with pytest.raises(SystemExit):
        train(ckpt_path=tmp_path / "step=4.ckpt", callbacks=[Saves()])
    state = torch.load(tmp_path / "again.ckpt", weights_only=True)["split_federated"]["rounds"]
    ((_, planned),) = state["planned_cuts"]
    assert planned["default"] == "model.5"
    assert state["federation"]["round"] == 1
