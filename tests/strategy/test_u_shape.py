"""A U-shape through the trainer: the laws, what crosses, and what is refused."""

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import LambdaCallback
from resume_cases import differences
from sfl_models import BERT, MLP, RESNET, TIED_GPT2, TWINS, U_SHAPES, adamw, fit, quiet_trainer, same, sgd
from test_law2 import Recorder, plain_sgd, plain_training
from test_loss_scaling import ended, half

from lightning_sfl import Allocation, SplitFederatedStrategy
from lightning_sfl.attendance import Stage
from lightning_sfl.cut.errors import CutError
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning")


@pytest.mark.parametrize(("kind", "cut"), U_SHAPES, ids=lambda value: getattr(value, "name", None) or "+".join(value))
@settings(max_examples=3)
@given(draw=st.data())
def test_law_1_one_client_trains_bit_for_bit_like_plain_lightning(kind, cut, draw):
    algorithm = draw.draw(st.sampled_from(ALGORITHMS), "algorithm")
    optimizer = draw.draw(st.sampled_from([sgd, adamw]), "optimizer")
    every = draw.draw(st.integers(1, 3), "aggregate_every")
    results = []
    for strategy in (
        "auto",
        SplitFederatedStrategy(
            cut=cut, num_clients=1, algorithm=algorithm, partition=[list(range(9))], aggregate_every=every
        ),
    ):
        module = kind.module(optimizer)
        trainer = fit(module, kind.loader(9, 4, shuffle=True), strategy, val=kind.loader(4, 4), max_epochs=2)
        results.append((module.state_dict(), trainer.callback_metrics, torch.get_rng_state()))
    plain, split = results
    assert same(plain[0], split[0])
    assert same(plain[1], split[1])
    assert torch.equal(plain[2], split[2])


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    batch_size=st.integers(1, 5),
    algorithm=st.sampled_from(("splitfed_shared", "splitfed_v1")),
)
def test_law_2_clients_of_any_sizes_equal_the_concatenated_batch(sizes, batch_size, algorithm):
    """The client's tail learns from its own mean loss, the server from all of them, weighted: double precision."""
    total, start, parts = sum(sizes), 0, []
    for size in sizes:
        parts.append(list(range(start, start + size)))
        start += size
    recorder = Recorder()
    strategy = SplitFederatedStrategy(
        cut=("model.1", "model.3"), num_clients=len(sizes), algorithm=algorithm, partition=parts, batch_size=batch_size
    )
    optimizer = plain_sgd(0.9, 1e-2)
    split = MLP.module(optimizer)
    trainer = fit(
        split, MLP.loader(total, 2, shuffle=True), strategy, callbacks=[recorder], max_epochs=2, precision="64-true"
    )
    per_epoch = trainer.num_training_batches
    plain = plain_training(
        MLP.module(optimizer).double(),
        MLP.dataset(total),
        [recorder.steps[:per_epoch], recorder.steps[per_epoch:]],
    )
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(split.state_dict()[name], tensor, rtol=1e-9, atol=1e-12), name


def test_law_3_replicas_do_not_depend_on_the_cuts():
    """splitfed_v1 in a U-shape, at one cut and as fedavg: the same weights bit for bit."""
    results = []
    for cut, algorithm in (("model.1", "splitfed_v1"), (("model.0", "model.2"), "splitfed_v1"), (None, "fedavg")):
        module = RESNET.module(adamw)
        strategy = SplitFederatedStrategy(cut=cut, num_clients=3, algorithm=algorithm, aggregate_every=2)
        fit(module, RESNET.loader(12, 2, shuffle=True), strategy, max_epochs=2)
        results.append(module.state_dict())
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_no_label_crosses_and_messages_go_four_ways():
    """BERT classifies: its labels are read by the loss alone. 2 clients, 1 step of 2 samples each, 16 wide.

    Every kind of tensor is checked in order and direction; the first step is the watched one.
    """
    log = MessageLog()
    strategy = SplitFederatedStrategy(
        cut=("model.bert.embeddings", "model.bert.encoder"), num_clients=2, message_log=log, batch_size=2
    )
    fit(BERT.module(sgd), BERT.loader(8, 2), strategy, max_epochs=1)
    messages = [m for m in log.messages() if m.client == 1 and m.step == 1]
    sides = {"client/1": "client", "server": "server", "fed_server": "fed_server"}
    assert [(m.kind.value, sides[m.sender], m.cut) for m in messages] == [
        ("broadcast", "fed_server", "model.bert.embeddings"),
        ("optimizer_state", "fed_server", "model.bert.embeddings"),
        ("mask", "client", "model.bert.embeddings"),
        ("smashed", "client", "model.bert.embeddings"),
        ("server_output", "server", "model.bert.encoder"),
        ("output_gradient", "client", "model.bert.encoder"),
        ("cut_gradient", "server", "model.bert.embeddings"),
        ("client_update", "client", "model.bert.embeddings"),
        ("optimizer_state", "client", "model.bert.embeddings"),
    ]
    kinds = {m.kind for m in log.messages()}
    assert MessageKind.LABEL not in kinds
    assert MessageKind.INPUT not in kinds
    first = [m.kind for m in log.messages() if m.client == 0 and m.step == 0]
    assert first[1:6] == [m.kind for m in messages][2:7]


def test_both_gradients_that_cross_are_those_of_the_clients_own_mean_loss():
    """Three clients with 1, 2 and 3 samples: nothing that crosses is scaled by their weights 1/6, 2/6, 3/6."""
    log = MessageLog()
    module = MLP.module(plain_sgd(0, 0))
    fresh = MLP.module(plain_sgd(0, 0)).double()
    strategy = SplitFederatedStrategy(
        cut=("model.1", "model.3"), num_clients=3, partition=[[0], [1, 2], [3, 4, 5]], batch_size=3, message_log=log
    )
    fit(module, MLP.loader(6, 3), strategy, max_epochs=1, precision="64-true")
    data = MLP.dataset(6)
    for client, indices in enumerate(([0], [1, 2], [3, 4, 5])):
        images = torch.stack([data[i][0] for i in indices]).double()
        labels = torch.stack([data[i][1] for i in indices])
        smashed = fresh.model[:2](images).detach().requires_grad_()
        output = fresh.model[2:4](smashed)
        output.retain_grad()
        torch.nn.functional.cross_entropy(fresh.model[4:](output), labels).backward()
        crossed = {m.kind: m.tensors["0"] for m in log.messages() if m.client == client and m.tensors.keys() == {"0"}}
        assert torch.allclose(crossed[MessageKind.OUTPUT_GRADIENT], output.grad, rtol=1e-12)
        assert torch.allclose(crossed[MessageKind.CUT_GRADIENT], smashed.grad, rtol=1e-12)


def test_resuming_goes_on_bit_for_bit_and_at_one_cut_too(tmp_path):
    """Saved after 4 steps: in the second epoch of 3, and in the second round of 3."""

    def run(cut, path=None, **options):
        module = RESNET.module(adamw)
        strategy = SplitFederatedStrategy(cut=cut, num_clients=3, aggregate_every=3)
        pl.seed_everything(1 if path is None else 5, verbose=False)
        trainer = quiet_trainer(strategy=strategy, max_epochs=3, **options)
        trainer.fit(module, RESNET.loader(18, 2, shuffle=True), ckpt_path=path, weights_only=path and True)
        return module.state_dict()

    def save(trainer, *_):
        if trainer.global_step == 4:
            trainer.save_checkpoint(tmp_path / "step.ckpt")

    u_shape = ("model.0", "model.2")
    whole = run(u_shape, callbacks=[LambdaCallback(on_train_batch_end=save)])
    assert same(whole, run(u_shape, tmp_path / "step.ckpt"))
    elsewhere = run("model.1", tmp_path / "step.ckpt")
    assert not same(whole, elsewhere)  # law 8 holds at the same cuts
    assert all(bool(tensor.isfinite().all()) for tensor in elsewhere.values())


def test_the_first_cut_may_differ_and_move_while_the_last_stays():
    """With replicas nothing depends on where; the layers that change hands are messages."""
    strategies = [
        SplitFederatedStrategy(cut=("model.0", "model.2"), num_clients=2, algorithm="splitfed_v1") for _ in range(2)
    ]

    def move(trainer, *_):
        if trainer.global_step == 1:
            strategies[1].allocate(Allocation(cut=["model.1", "model.0"]))

    results = []
    for strategy, callbacks in zip(strategies, ([], [LambdaCallback(on_train_batch_end=move)]), strict=True):
        module = RESNET.module(adamw)
        fit(module, RESNET.loader(12, 2, shuffle=True), strategy, max_epochs=2, callbacks=callbacks)
        results.append(module.state_dict())
    assert same(*results)
    assert set(strategies[1].splits) == {"model.0", "model.1"}
    assert {split.back.cut for split in strategies[1].splits.values()} == {"model.2"}


@pytest.mark.parametrize("stage", [Stage.AFTER_FORWARD, Stage.BEFORE_GRADIENT])
def test_a_client_lost_in_mid_step_is_lost_in_a_u_shape_too(stage):
    """After its forward only smashed data crossed; before its gradient, all but the cut gradient."""

    class LosesOne:
        def is_lost(self, *, client, stage, round, step):
            return client == 1 and step == 1 and stage is wanted

    wanted, log = stage, MessageLog()
    strategy = SplitFederatedStrategy(
        cut=("model.first", "model.second"), num_clients=2, attendance=LosesOne(), message_log=log
    )
    fit(TWINS.module(sgd), TWINS.loader(8, 2), strategy, max_epochs=1)
    kinds = [m.kind.value for m in log.messages() if m.client == 1 and m.step == 1 and m.sender != "fed_server"]
    assert (
        kinds
        == {
            Stage.AFTER_FORWARD: ["smashed"],
            Stage.BEFORE_GRADIENT: ["smashed", "server_output", "output_gradient"],
        }[stage]
    )


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (("model.2", "model.0"), "wrong order"),
        (("model.0", "model.9"), "has no submodule of this name"),
        (("model.1.body.0", "model.2"), "path leads around.*With 'model.2' as the last one, valid first cuts are"),
    ],
)
def test_pairs_that_are_no_u_shape_are_refused_before_anything_is_changed(cut, message):
    module = RESNET.module(sgd)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CutError, match=message):
        fit(module, RESNET.loader(8, 2), SplitFederatedStrategy(cut=cut, num_clients=2), max_epochs=1)
    assert same(before, module.state_dict())


def test_tied_weights_train_over_several_clients():
    """Each client's tied embedding gets gradients from both ends; after the fit all is one model, and it has learnt."""
    module = TIED_GPT2.module(adamw)
    strategy = SplitFederatedStrategy(
        cut=("model.transformer.h.0", "model.transformer.ln_f"), num_clients=3, aggregate_every=2
    )
    trainer = fit(module, TIED_GPT2.loader(12, 2, shuffle=True), strategy, max_epochs=8)
    assert module.model.lm_head.weight is module.model.transformer.wte.weight
    assert float(trainer.callback_metrics["loss"]) < 3.2  # ln 32 = 3.47 is chance


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
@pytest.mark.parametrize("scaled", [False, True])
def test_it_accumulates_and_scales_losses_like_plain_lightning(algorithm, scaled):
    """Groups of 2 batches in epochs of 5; with a scaler on 16-bit numbers whose first steps overflow."""
    results = []
    for strategy in (
        "auto",
        SplitFederatedStrategy(
            cut=("model.0", "model.2"), num_clients=1, algorithm=algorithm, partition=[list(range(14))]
        ),
    ):
        module = RESNET.module(adamw)
        module.schedule = False
        plugins = [half(2.0**20, growth_interval=2)] if scaled else []
        options = {"accumulate_grad_batches": 2, "plugins": plugins}
        results.append(ended(fit(module, RESNET.loader(14, 3, shuffle=True), strategy, max_epochs=3, **options)))
    assert differences(*results) == []


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_cross_freed_from_every_scale(scaled):
    """Two clients of 1 and 3 samples, groups of 2 batches: what crosses is no multiple of 1/4, 3/4, 1/2 or the scale.

    The same batches without weights and accumulation, one client at a time, give the reference. Half precision keeps
    11 bits.
    """
    data = MLP.dataset(8)
    parts = [[0, 1], [2, 3, 4, 5, 6, 7]]
    log = MessageLog()
    strategy = SplitFederatedStrategy(
        cut=("model.1", "model.3"), num_clients=2, partition=parts, batch_size=3, message_log=log
    )
    options = {"plugins": [half(2.0**10)]} if scaled else {"precision": "64-true"}
    fit(
        MLP.module(plain_sgd(0, 0)),
        MLP.loader(8, 3),
        strategy,
        max_epochs=1,
        accumulate_grad_batches=2,
        limit_train_batches=1,
        **options,
    )
    fresh = MLP.module(plain_sgd(0, 0)).double()
    for client, indices in ((0, [0, 1]), (1, [2, 3, 4])):
        images = torch.stack([data[i][0] for i in indices]).double()
        labels = torch.stack([data[i][1] for i in indices])
        smashed = fresh.model[:2](images).detach().requires_grad_()
        output = fresh.model[2:4](smashed)
        output.retain_grad()
        torch.nn.functional.cross_entropy(fresh.model[4:](output), labels).backward()
        crossed = {m.kind: m.tensors["0"] for m in log.messages() if m.client == client and m.tensors.keys() == {"0"}}
        for kind, expected in ((MessageKind.OUTPUT_GRADIENT, output.grad), (MessageKind.CUT_GRADIENT, smashed.grad)):
            error = (crossed[kind].double() - expected).norm() / expected.norm()
            assert error < (5e-3 if scaled else 1e-12), kind


class Skips(pl.LightningModule):
    """The end reads what the first module gave beside what the server computes: the very tensor that crosses, if told
    so, or another."""

    def __init__(self, *, crosses: bool) -> None:
        super().__init__()
        self.crosses = crosses
        self.model = torch.nn.ModuleDict(
            {"first": Pair(), "middle": torch.nn.Linear(5, 5), "end": torch.nn.Linear(5, 4)}
        )

    def training_step(self, batch, batch_idx):
        images, labels = batch
        sent, kept = self.model["first"](images.flatten(1))
        given = self.model["middle"](sent)
        return torch.nn.functional.cross_entropy(self.model["end"](given + (sent if self.crosses else kept)), labels)

    def configure_optimizers(self):
        return plain_sgd(0.9, 0)(self.parameters())


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = torch.nn.Linear(192, 5), torch.nn.Linear(192, 5)

    def forward(self, given):
        return self.one(given).tanh(), self.other(given).tanh()


def test_a_skip_connection_that_stays_with_the_client_is_trained_from_the_first_step_on():
    """The watched step lets every output pass the hook; the gradient of the one that does not cross comes back too."""
    results = []
    for parts in (None, [list(range(8))], [[0, 1], [2, 3, 4, 5, 6, 7]]):
        torch.manual_seed(0)
        module = Skips(crosses=False)
        strategy = parts and SplitFederatedStrategy(
            cut=("model.first", "model.middle"), num_clients=len(parts), partition=parts, batch_size=8
        )
        fit(module, MLP.loader(8, 8), strategy or "auto", max_epochs=3, precision="64-true")
        results.append(module.state_dict())
    plain, one, two = results
    assert same(plain, one)
    for name, tensor in plain.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_skip_connection_from_the_tensor_that_crosses_is_refused():
    """Its gradient is the sum of both sides', of which only the server's is weighted and may cross."""
    strategy = SplitFederatedStrategy(cut=("model.first", "model.middle"), num_clients=2)
    with pytest.raises(CutError, match=r"reads the output of 'model.first' too.*Cut at a module behind it"):
        fit(Skips(crosses=True), MLP.loader(8, 4), strategy, max_epochs=1)
