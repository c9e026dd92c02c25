"""Law 8: a run stopped or killed at any step and gone on with ends as one that was not, bit for bit.

Compared are weights, buffers, the user's optimizer state and every participant's, schedules, random states, and of
every step the samples of each client, what the samples were, and the loss.
"""

import random
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from killed_runs import newest_whole, outcome_in, run_in_process
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from resume_cases import PARTS, Augmented, Case, Moments, Net, apart, differences
from torch.utils.data import DataLoader

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg", "ho_sfl", "zo_sfl", "hosl")
VALIDATIONS = (
    None,
    {},
    {"val_check_interval": 1},
    {"val_check_interval": 0.5},
    {"check_val_every_n_epoch": 2},
    {"val_check_interval": 3, "check_val_every_n_epoch": None},
)
CASES = st.builds(
    Case,
    algorithm=st.sampled_from(ALGORITHMS),
    cut=st.sampled_from(["net.0", "net.3", "net.6"]),
    aggregate_every=st.integers(1, 4),
    clients_per_round=st.integers(1, 3),
    client_optimizer_state=st.sampled_from(["average", "reset", "keep"]),
    weighting=st.sampled_from(["samples", "data", "uniform"]),
    shuffle=st.booleans(),
    own_generator=st.booleans(),
    drop_last=st.booleans(),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    schedule=st.sampled_from([None, "step", "epoch", "horizon", "plateau step 1 loss_step"]),
    validation=st.sampled_from(VALIDATIONS),
    limit=st.sampled_from([None, 2]),
    sanity=st.sampled_from([0, 2]),
    steps=st.just(8),
    epochs=st.sampled_from([None, 2, 3]),
)

# A run that goes on from a checkpoint is told so where it has other callbacks than the run that wrote it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]


@pytest.mark.slow
@settings(max_examples=20, phases=[Phase.generate])  # to shrink an example would take minutes
@given(case=CASES, draw=st.data())
def test_a_run_stopped_twice_ends_as_one_that_was_not(case, draw, tmp_path_factory):
    """The second stop is of the run that went on; the first may be at a round's or an epoch's end, or within either."""
    folder = tmp_path_factory.mktemp("stops")
    whole = case.train()
    first = draw.draw(st.integers(1, len(whole.steps) - 1), "first stop")
    second = draw.draw(st.integers(first, len(whole.steps) - 1), "second stop")
    case.train(folder / "first", stop=first)
    path = folder / "first" / f"step={first}.ckpt"
    if second > first:
        case.train(folder / "second", go_on=path, stop=second)
        path = folder / "second" / f"step={second}.ckpt"
    assert apart(whole, case.train(go_on=path)) == []


@pytest.mark.parametrize(
    "case",
    [
        Case(workers=2, own_generator=True, aggregate_every=3, validation={"val_check_interval": 2}),
        Case(workers=2, persistent=True, algorithm="splitfed_v1", clients_per_round=2, limit=2),
    ],
    ids=["own generator", "persistent workers"],
)
def test_with_workers_too_what_they_fetched_ahead_is_fetched_again(case, tmp_path):
    """Epochs of 3 and, limited, 2 steps: step 4 is within one and the last of one, with batches fetched ahead."""
    whole = case.train()
    case.train(tmp_path, stop=4)
    assert apart(whole, case.train(go_on=tmp_path / "step=4.ckpt")) == []


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize(
    "case",
    [
        Case(cut=("net.0", "net.6"), aggregate_every=2, clients_per_round=2),
        Case(cut=("net.3", "net.6"), algorithm="splitfed_v1", aggregate_every=3, client_optimizer_state="keep"),
        Case(cut=("net.0", "net.6"), algorithm="splitfed_v2", aggregate_every=2),
        Case(server_batching="merged", aggregate_every=3, clients_per_round=2),
    ],
    ids=["u_shape", "u_shape v1", "u_shape v2", "merged"],
)
def test_in_a_u_shape_and_with_merged_batches(case, stop, tmp_path):
    """Rounds of 2 or 3 steps, epochs of 3: stopped within either and at either's end."""
    whole = case.train()
    case.train(tmp_path, stop=stop)
    assert apart(whole, case.train(go_on=tmp_path / f"step={stop}.ckpt")) == []


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [None, 3], ids=["max_steps", "max_epochs"])
@pytest.mark.parametrize("validation", [None, {"val_check_interval": 2}], ids=["no validation", "validation"])
def test_a_run_goes_on_from_the_end_of_an_epoch_or_a_validation(validation, epochs, tmp_path):
    """Epochs of 3 steps, rounds of 4; validations after steps 2, 5 and 8. Each run saves again, and is gone on with.

    The step's own checkpoint is saved before its validation, which the run that goes on makes up for, and saves in it.
    """
    case = Case(aggregate_every=4, validation=validation, epochs=epochs)
    whole = case.train()
    (tmp_path / "first").mkdir()
    case.train(tmp_path / "first", callbacks=(Moments(tmp_path / "first"),), stop=3)
    names = {"step=3", "epoch=3", *({"step=2", "validation=2"} if validation else set())}
    assert names <= {path.stem for path in (tmp_path / "first").glob("*.ckpt")}
    for name in sorted(names):
        again = tmp_path / name
        again.mkdir()
        resumed = case.train(again, go_on=tmp_path / "first" / f"{name}.ckpt", callbacks=(Moments(again),))
        assert apart(whole, resumed, validated=not name.startswith("step")) == []
        later = min(again.glob("validation=*.ckpt" if validation else "epoch=6.ckpt"))
        assert apart(whole, case.train(go_on=later), validated=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [None, 4], ids=["max_steps", "max_epochs"])
@pytest.mark.parametrize(
    ("schedule", "validation"),
    [
        ("plateau epoch 1 val_loss", {}),
        ("plateau epoch 2 val_loss", {"check_val_every_n_epoch": 2}),
        ("plateau epoch 1 val_loss", {"val_check_interval": 2}),
        ("plateau step 1 val_loss", {"val_check_interval": 1}),
        ("plateau step 2 val_loss", {"val_check_interval": 2}),
        ("plateau step 1 loss_step", None),
        ("plateau epoch 1 loss_epoch", None),
        ("plateau epoch 1 loss_epoch", {"val_check_interval": 2}),
    ],
)
def test_a_scheduler_that_follows_a_metric_misses_no_update(schedule, validation, epochs, tmp_path):
    """`ReduceLROnPlateau`, with checkpoints saved after the steps, validations and epochs of 9 steps in epochs of 3."""
    case = Case(schedule=schedule, validation=validation, epochs=epochs)
    whole = case.train(tmp_path, callbacks=(Moments(tmp_path),))
    assert whole.end["schedules"][0]["last_epoch"] > 0
    paths = [path for path in sorted(tmp_path.glob("*.ckpt")) if int(path.stem.split("=")[1]) < len(whole.steps)]
    assert len(paths) >= 12
    for path in paths if len(paths) < 20 else paths[::2]:
        resumed = case.train(go_on=path)
        assert apart(whole, resumed, validated=not path.stem.startswith("step")) == []


@pytest.mark.parametrize("rule", ["average", "keep"])
def test_a_checkpoint_saved_after_a_fit_holds_the_open_round(rule, tmp_path):
    """Two epochs of 3 steps end in the middle of the second round of 4."""
    case = Case(aggregate_every=4, client_optimizer_state=rule, epochs=3)
    trainer = case.trainer(case.strategy(), enable_checkpointing=False, max_epochs=2)
    pl.seed_everything(1, verbose=False)
    trainer.fit(case.module(), case.loader())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert apart(case.train(), case.train(go_on=tmp_path / "after.ckpt")) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("case", "what", "in_place", "pause"),
    [
        (Case(algorithm="splitfed_v1", clients_per_round=2, validation={"val_check_interval": 1}), "step", False, True),
        (Case(aggregate_every=4, validation={}), "half", True, True),
        (Case(algorithm="splitfed_v2", aggregate_every=2, own_generator=True), "saving", False, False),
        (Case(algorithm="split_learning", aggregate_every=3, limit=2), "saved", False, True),
        (Case(workers=2, aggregate_every=3, validation={}), "half", True, True),
        (
            Case(workers=2, algorithm="fedavg", client_optimizer_state="keep", aggregate_every=2),
            *("step", False, False),
        ),
    ],
    ids=lambda value: value.algorithm if isinstance(value, Case) else str(value),
)
def test_a_run_that_is_killed_goes_on_from_its_newest_whole_checkpoint(case, what, in_place, pause, tmp_path):
    """By SIGKILL, at a step drawn from 3 to 9 of 10, in the middle of it or while its checkpoint is saved.

    Where the process waits to be killed, the checkpoint left is known: of the step before, or, once saved, of the step.
    """
    step = random.Random(repr(case)).randint(3, 9)
    run_in_process(case, tmp_path / "whole")
    told = run_in_process(case, tmp_path / "killed", kill=(what, step), in_place=in_place, pause=pause)
    assert (what, step) in told
    newest, broken = newest_whole(tmp_path / "killed")
    if pause:
        assert newest == tmp_path / "killed" / f"step={step - (what != 'saved')}.ckpt"
        assert told[-1] == (what, step)
        assert len(broken) == (what == "half")
    for path in broken:
        refused(case, path, "cut short", MisconfigurationException)
    run_in_process(case, tmp_path / "resumed", go_on=newest)
    assert apart(outcome_in(tmp_path / "whole"), outcome_in(tmp_path / "resumed")) == []


def refused(case: Case, path: Path, message: str, error: type[Exception], **options) -> None:
    """Check that a run does not go on from a checkpoint, and that nothing was overwritten."""
    module = case.module(7)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = case.trainer(case.strategy(**options), enable_checkpointing=False)
    with pytest.raises(error, match=message):
        trainer.fit(module, case.loader(), ckpt_path=path, weights_only=True)
    assert differences(before, dict(module.state_dict())) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Checkpoints of every step of a run with epochs of 3 steps and rounds of 4."""
    folder = tmp_path_factory.mktemp("saved")
    Case(aggregate_every=4).train(folder, stop=6)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clients": 2, "partition": "iid", "clients_per_round": 2}, "num_clients=3.*num_clients=2"),
        ({"algorithm": "splitfed_v1"}, "algorithm='splitfed_shared'.*algorithm='splitfed_v1'"),
        ({"aggregate_every": 2}, "aggregate_every=4.*aggregate_every=2"),
        ({"clients_per_round": 2}, "clients_per_round=3.*clients_per_round=2"),
        ({"seed": 3}, "seed=0.*seed=3"),
        ({"weighting": "data"}, "weighting='samples'.*weighting='data'"),
        ({"client_optimizer_state": "keep"}, "client_optimizer_state='average'.*'keep'"),
        ({"batch_size": 2}, "batch_size=0.*batch_size=2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_other_clients_is_refused_and_nothing_overwritten(options, message, saved):
    refused(Case(aggregate_every=4), saved / "step=2.ckpt", message, MisconfigurationException, **options)


@pytest.mark.parametrize("schedule", [None, "horizon"])
def test_a_checkpoint_of_another_partition_is_refused_and_nothing_overwritten(schedule, saved):
    """Found out when the training loader is made; with a schedule that asks for the horizon, that is earlier."""
    case = Case(aggregate_every=4, schedule=schedule, epochs=3)
    other = [PARTS[1], PARTS[0], PARTS[2]]
    refused(case, saved / "step=2.ckpt", "another partition", ValueError, partition=other)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_and_nothing_overwritten(kept, saved, tmp_path):
    whole = (saved / "step=2.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(len(whole) * kept)])
    refused(Case(aggregate_every=4), tmp_path / "cut.ckpt", "cut short", MisconfigurationException)


def test_a_checkpoint_of_another_model_is_refused_and_nothing_overwritten(saved, tmp_path):
    """Of other shapes in its last layers, which come after others were loaded; and of other names."""
    state = torch.load(saved / "step=2.ckpt", weights_only=True)
    state["state_dict"] = Net(Case(), width=9).state_dict()
    torch.save(state, tmp_path / "shapes.ckpt")
    refused(Case(aggregate_every=4), tmp_path / "shapes.ckpt", "size mismatch for net.0.weight", RuntimeError)
    state["state_dict"] = {f"other.{name}": tensor for name, tensor in Case().module().state_dict().items()}
    torch.save(state, tmp_path / "names.ckpt")
    refused(Case(aggregate_every=4), tmp_path / "names.ckpt", "other.net.0.weight", RuntimeError)


@pytest.mark.parametrize(("before", "after"), [("net.6", "net.0"), ("net.0", "net.6"), ("net.3", "net.3")])
def test_at_another_cut_layers_newly_shared_take_the_mean_and_layers_newly_owned_copy_the_global_ones(
    before, after, tmp_path
):
    """After step 6 of rounds of 4, clients have weights of their own up to and with the cut.

    On both sides of it: layers 0 and 1 always; 4 and 5 where both cuts are net.6. The checkpoint's own weights are the
    means, and what was shared is in it as it was. All that is looked at as the next step begins.
    """
    case = Case(cut=before, aggregate_every=4)
    case.train(tmp_path, stop=6)
    checkpoint = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
    held = checkpoint["split_federated"]["rounds"]["federation"]["participants"]
    own_before = {client: tensors for client, (_, _, tensors, _) in held.items()}
    seen = {}

    class Look(pl.Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            """After the next step's passes, before anybody steps: buffers have moved, weights have not."""
            if not seen:
                people = trainer.strategy._federation.participants
                seen["own"] = {client: dict(people[client].shard.tensors()) for client in people}
                seen["own"] = {c: {n: t.clone() for n, t in own.items()} for c, own in seen["own"].items()}
                seen["shared"] = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}

    strategy = case.strategy(cut=after)
    trainer = case.trainer(strategy, callbacks=[Look()], enable_checkpointing=False, max_steps=7)
    module = case.module(5)
    trainer.fit(module, case.loader(), ckpt_path=tmp_path / "step=6.ckpt", weights_only=True)
    owned_now = set(strategy.splits[after].client_parameters)
    for name in dict(module.named_parameters()):
        for client, own in own_before.items():
            expected = own[name] if name in own else checkpoint["state_dict"][name]
            if name in owned_now:
                assert torch.equal(seen["own"][client][name], expected)
            else:
                assert torch.equal(seen["shared"][name], checkpoint["state_dict"][name])
    assert {name in own_before[0] for name in owned_now} == (
        {True, False} if (before, after) == ("net.0", "net.6") else {True}
    )


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended:UserWarning")
@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_checkpoint_goes_on_in_plain_lightning_and_a_plain_one_here(step, saved, tmp_path):
    """At an epoch's end and within one. Plain batches of 3 of 22 samples would leave one for batch normalisation."""
    case, seen = Case(aggregate_every=4, steps=12), {}

    class First(pl.Callback):
        def on_train_start(self, trainer, module):
            seen["weights"] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            seen["state"] = trainer.optimizers[0].state_dict()["state"]

    def go_on(strategy, path, **options) -> pl.Trainer:
        trainer = case.trainer(strategy, callbacks=[First()], enable_checkpointing=False, **options)
        trainer.fit(case.module(5), DataLoader(Augmented(), batch_size=4), ckpt_path=path, weights_only=True)
        checkpoint = torch.load(path, weights_only=True)
        assert differences(dict(checkpoint["state_dict"]), seen["weights"]) == []
        assert seen["state"].keys() == checkpoint["optimizer_states"][0]["state"].keys()
        return trainer

    plain = go_on("auto", saved / f"step={step}.ckpt")
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    assert "split_federated" not in torch.load(tmp_path / "plain.ckpt", weights_only=True)
    assert go_on(case.strategy(), tmp_path / "plain.ckpt", max_steps=16).global_step == 16


def test_checkpoints_are_tensors_and_plain_python_and_weights_alone_have_nothing_of_ours(tmp_path):
    case = Case(aggregate_every=4, client_optimizer_state="keep", own_generator=True, validation={})
    weights = pl.callbacks.ModelCheckpoint(tmp_path, filename="weights", save_weights_only=True, every_n_train_steps=7)
    case.train(tmp_path, callbacks=(weights,), stop=7)
    found = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("step=*.ckpt"))]
    assert len(found) == 7
    assert all("split_federated" in checkpoint for checkpoint in found)
    alone = torch.load(tmp_path / "weights.ckpt", weights_only=True)
    assert "split_federated" not in alone
    assert "combined_loader" not in str(alone.keys())
    assert differences(dict(found[-1]["state_dict"]), dict(alone["state_dict"])) == []
