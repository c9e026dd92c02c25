"""`server_batching="merged"`: one server pass over what all clients have sent, against a straight-line loop."""

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resume_cases import differences
from round_cases import Loses, adamw, assert_close, data, job, momentum, network, straight, train
from sfl_models import BERT, GPT2, KINDS_WITH_SLOW, LLAMA, RESNET, Classifier, fit, same, sgd
from sfl_models import adamw as adamw_of_floats
from test_loss_scaling import ended, half
from torch.nn.functional import cross_entropy

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.link.message import MessageKind

pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")


def loop(job, *, lost=frozenset()):
    """How a merged run ends: the server sees one batch, and its norms too."""
    return straight(job, "splitfed_shared", lost=lost, train_on=merged_step)


def merged_step(job, parties, main, step, silent):
    batches = {client: job.batch(indices) for client, indices in step.items()}
    hidden = {client: parties[client].network(images) for client, (images, _) in batches.items()}
    received = torch.cat([h.detach() for h in hidden.values()]).requires_grad_()
    labels = torch.cat([labels for _, labels in batches.values()])
    main.optimizer.zero_grad()
    cross_entropy(main.network(received), labels).backward()
    main.optimizer.step()
    rows = received.grad.split([len(h) for h in hidden.values()])
    for (client, h), gradient in zip(hidden.items(), rows, strict=True):
        if client not in silent:
            parties[client].optimizer.zero_grad()
            h.backward(gradient * len(labels) / len(h))  # of its own mean loss
            parties[client].optimizer.step()


@pytest.mark.parametrize("kind", KINDS_WITH_SLOW, ids=lambda kind: kind.name)
@settings(max_examples=4)
@given(draw=st.data())
def test_law_1_one_client_trains_bit_for_bit_like_plain_lightning(kind, draw):
    """The halves run apart in every step, the first included, which is found out about on a copy."""
    cut = draw.draw(st.sampled_from(kind.cuts), "cut")
    optimizer = draw.draw(st.sampled_from([sgd, adamw_of_floats]), "optimizer")
    every = draw.draw(st.integers(1, 3), "aggregate_every")
    strategy = SplitFederatedStrategy(
        cut=cut,
        num_clients=1,
        partition=[list(range(9))],
        aggregate_every=every,
        server_inputs=kind.server_inputs,
        server_batching="merged",
    )
    results = []
    for used in ("auto", strategy):
        module = kind.module(optimizer)
        trainer = fit(module, kind.loader(9, 4, shuffle=True), used, val=kind.loader(4, 4), max_epochs=2)
        results.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state()))
    plain, merged = results
    assert same(plain[0], merged[0])
    assert same(plain[1], merged[1])
    assert torch.equal(plain[2], merged[2])


@pytest.mark.parametrize("scaled", [False, True])
def test_it_accumulates_and_scales_losses_like_plain_lightning(scaled):
    results = []
    for strategy in (
        "auto",
        SplitFederatedStrategy(
            cut="model.1", num_clients=1, partition=[list(range(14))], aggregate_every=2, server_batching="merged"
        ),
    ):
        module = RESNET.module(adamw_of_floats)
        module.schedule = False
        options = {"accumulate_grad_batches": 2, "plugins": [half(2.0**20, growth_interval=2)] if scaled else []}
        results.append(ended(fit(module, RESNET.loader(14, 3, shuffle=True), strategy, max_epochs=3, **options)))
    assert differences(*results) == []


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("every", [1, 3])
def test_several_clients_train_as_the_loop_says(optimizer, every):
    """Batches of 4, 4 and 4, later 2: the server's batch normalisation sees all of them as one."""
    found = train(server_batching="merged", optimizer=optimizer, aggregate_every=every, steps=9)
    told = job(found, optimizer, every=every)
    assert_close(found.weights, loop(told))
    alone = train(optimizer=optimizer, aggregate_every=every, steps=9)
    assert not torch.allclose(alone.weights["4.running_var"], found.weights["4.running_var"], rtol=1e-3)


def test_without_normalisation_it_is_the_same_as_one_pass_per_client():
    """To rounding, and what crosses is the same to the bit in number and size."""
    merged = train(server_batching="merged", norm=False, steps=9)
    alone = train(norm=False, steps=9)
    assert_close(merged.weights, alone.weights)
    meters = [run.trainer.strategy.link.meter.by_kind() for run in (merged, alone)]
    for key, traffic in meters[0].items():
        assert (traffic.messages, traffic.payload_bit) == (meters[1][key].messages, meters[1][key].payload_bit)
    assert meters[0].keys() == meters[1].keys()
    gradients = [
        {(m.client, m.step): m.tensors["0"] for m in run.log.messages(kinds=[MessageKind.CUT_GRADIENT])}
        for run in (merged, alone)
    ]
    for place, gradient in gradients[0].items():  # of each client's own mean loss
        torch.testing.assert_close(gradient, gradients[1][place], rtol=1e-9, atol=1e-12)
    for one, other in zip(merged.asks.losses, alone.asks.losses, strict=True):
        assert abs(one - other) < 1e-12


@pytest.mark.parametrize("stage", ["before_forward", "after_forward", "before_gradient", "before_upload"])
def test_clients_lost_at_any_stage_count_as_the_loop_says(stage):
    """Client 0 in the second step of the first round (for the upload: its last), client 2 in the last of all."""
    lost = {(0, stage, 2 if stage == "before_upload" else 1), (2, stage, 8)}
    found = train(server_batching="merged", attendance=Loses(lost), steps=9)
    assert_close(found.weights, loop(job(found, momentum), lost=lost))
    sent = [(m.kind.value, m.client) for m in found.log.messages() if m.step == 1 and m.kind is MessageKind.SMASHED]
    assert (("smashed", 0) in sent) == (stage != "before_forward")


def test_nobody_is_left():
    """In the second step; nothing is trained on in it, and the rest of the round has nobody."""
    lost = {(client, "before_forward", 1) for client in range(3)}
    found = train(server_batching="merged", attendance=Loses(lost), steps=6)
    assert_close(found.weights, loop(job(found, momentum), lost=lost))


def spoilt(places):
    images, labels = data()
    images[places] = torch.nan
    return images, labels


def test_smashed_data_that_are_no_numbers_name_their_client():
    with pytest.raises(
        ValueError, match="Client 1 has smashed data that are NaN or infinite .tensor '0', step 0.. nonfinite='skip'"
    ):
        train(server_batching="merged", xy=spoilt([*range(8, 12)]))


def test_smashed_data_that_are_no_numbers_are_left_out():
    """Sample 3 spoils some batches of client 0; client 1 is never there. No running statistic sees them."""
    xy = spoilt([3, *range(8, 12)])
    found = train(server_batching="merged", xy=xy, nonfinite="skip", steps=9)
    left_out = {
        (client, "skipped", place)
        for place, step in enumerate(found.asks.steps)
        for client, indices in step.items()
        if {3, 8, 9, 10, 11} & set(indices)
    }
    assert_close(found.weights, loop(job(found, momentum, xy=xy), lost=left_out))


class Overflows(Classifier):
    """A marked label makes the loss infinite; the smashed data are numbers."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x, y.clamp(min=0)), batch_idx) + (torch.inf if y.min() < 0 else 0)


def marked():
    images, labels = data()
    labels[8:12] = -100
    return images, labels


def test_a_loss_that_is_no_number_names_those_it_is_made_of():
    module = Overflows(network(), momentum, schedule=False)
    with pytest.raises(ValueError, match=r"Clients \[0, 1, 2\] together have a loss of inf"):
        train(server_batching="merged", module=module, xy=marked())


def test_a_loss_that_is_no_number_leaves_the_step_out():
    """Client 0 has the marked sample in every other batch; nobody's running statistics see those steps."""
    images, labels = data()
    labels[3] = -100
    module = Overflows(network(), momentum, schedule=False)
    found = train(server_batching="merged", module=module, xy=(images, labels), nonfinite="skip", steps=9)
    bad = [place for place, step in enumerate(found.asks.steps) if 3 in step[0]]
    assert 2 < len(bad) < 7
    lost = {(client, "skipped", place) for client in range(3) for place in bad}
    assert_close(found.weights, loop(job(found, momentum, xy=(images, labels)), lost=lost))


class Skips(Classifier):
    """Skips the second step: before the cut, or behind it."""

    def __init__(self, *args, before, **options) -> None:
        super().__init__(*args, **options)
        self.before = before

    def training_step(self, batch, batch_idx):
        if batch_idx != 1:
            return super().training_step(batch, batch_idx)
        if not self.before:
            self.model(batch[0])
        return None


@pytest.mark.parametrize("before", [True, False])
def test_a_step_that_is_skipped_trains_nothing(before):
    """It ends like a run whose step was skipped client by client."""
    ends = [
        train(module=Skips(network(norm=False), momentum, before=before, schedule=False), steps=4, server_batching=way)
        for way in ("merged", "per_client")
    ]
    assert_close(ends[0].weights, ends[1].weights)


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path):
    """From every step of two rounds."""
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"server_batching": "merged", "optimizer": adamw, "steps": 9}
    whole = train(callbacks=[saving], trainer_options={"enable_checkpointing": True}, **options)
    for step in range(1, 7):
        with pytest.warns(UserWarning, match="Be aware that when using `ckpt_path`"):
            resumed = train(ckpt_path=tmp_path / f"step={step}.ckpt", **options)
        assert same(whole.weights, resumed.weights)


@pytest.mark.parametrize("way", ["merged", "per_client"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_run_resumes_before_a_step_that_everybody_skips(way, every, tmp_path):
    """Every second step is skipped: the first of runs that go on after steps 1, 3 and 5, in mid-round and between."""
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"server_batching": way, "optimizer": adamw, "steps": 7, "norm": False, "aggregate_every": every}

    def run(**more):
        module = Skips(network(norm=False), adamw, before=True, schedule=False)
        return train(module=module, **options, **more).weights

    whole = run(callbacks=[saving], trainer_options={"enable_checkpointing": True})
    for step in (1, 2, 3, 5):
        assert same(whole, run(ckpt_path=tmp_path / f"step={step}.ckpt"))


def test_the_cut_may_move_for_all_at_once():
    """From model.2 to model.5 after the first round."""
    plan = {0: Allocation(cut=["model.5"] * 3)}
    merged = train(server_batching="merged", plan=plan, norm=False, steps=9)
    alone = train(plan=plan, norm=False, steps=9)
    assert merged.asks.cuts[-1] == ["model.5"] * 3
    assert_close(merged.weights, alone.weights)


def test_cuts_that_would_differ_are_refused_before_anything_moves():
    module, asked = RESNET.module(sgd), []

    class Asks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with pytest.raises(ValueError, match=r"server_batching='merged' does not go with the cuts \['model.0'"):
                trainer.strategy.allocate(Allocation(cut=["model.0", "model.1"], batch_size=[1, 1]))
            asked.append(trainer.strategy._loader._allocated)

    strategy = SplitFederatedStrategy(cut="model.1", num_clients=2, server_batching="merged")
    fit(module, RESNET.loader(8, 2), strategy, max_epochs=1, callbacks=[Asks()])
    assert asked == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "splitfed_v1"}, "does not go with algorithm='splitfed_v1': one server model must be trained"),
        ({"algorithm": "splitfed_v2"}, "does not go with algorithm='splitfed_v2'"),
        ({"algorithm": "split_learning"}, "does not go with algorithm='split_learning'"),
        ({"algorithm": "fedavg"}, "does not go with algorithm='fedavg'"),
        ({"weighting": "uniform"}, "does not go with weighting='uniform'"),
        ({"cut": {0: "a", 1: "b"}, "num_clients": 2}, r"does not go with the cuts \['a', 'b'\]"),
        ({"cut": ("a", "b")}, r"does not go with the cuts \('a', 'b'\)"),
    ],
)
def test_what_cannot_be_merged_is_refused(options, message):
    with pytest.raises(ValueError, match="server_batching='merged' " + message):
        SplitFederatedStrategy(server_batching="merged", **options)
    with pytest.raises(ValueError, match="server_batching='both' is not known. Accepted are 'per_client', 'merged'"):
        SplitFederatedStrategy(server_batching="both")


@pytest.mark.parametrize("kind", [LLAMA, GPT2, BERT], ids=lambda kind: kind.name)
def test_lengths_that_differ_from_client_to_client_do_not_concatenate(kind):
    """Each client's batch is padded to its own longest sequence."""
    strategy = SplitFederatedStrategy(
        cut=kind.cuts[1], num_clients=3, server_batching="merged", server_inputs=kind.server_inputs
    )
    message = r"server_batching='merged': smashed data 0 cannot be concatenated; per record their shapes are .*Pad"
    with pytest.raises(ValueError, match=message):
        fit(kind.module(sgd), kind.loader(12, 2), strategy, max_epochs=1)


class Weighted(Classifier):
    """The batch brings a weight for the loss, one number."""

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.model(batch["x"]), batch["y"])
        return loss * batch["weight"] if "weight" in batch else loss


def batches_of(weight):
    images, labels = data(12)

    def collate(places):
        batch = {"x": images[places], "y": labels[places]}
        value = weight(places)
        return batch if value is None else batch | {"weight": torch.tensor(value)}

    return torch.utils.data.DataLoader(range(12), batch_size=4, collate_fn=collate)


def test_a_number_beside_the_rows_must_be_the_same_for_all():
    def run(weight):
        strategy = SplitFederatedStrategy(
            cut="model.2",
            num_clients=3,
            partition=[[*range(4)], [*range(4, 8)], [*range(8, 12)]],
            server_batching="merged",
        )
        fit(Weighted(network(), momentum), batches_of(weight), strategy, max_epochs=2, precision="64-true")

    run(lambda places: 2.0)
    with pytest.raises(ValueError, match="'weight' holds no row per record and differs from client to client"):
        run(lambda places: float(places[0]))
    with pytest.raises(ValueError, match=r"the batch of client 2 holds the tensors \['x', 'y', 'weight'\], another's"):
        run(lambda places: 2.0 if places[0] >= 8 else None)
