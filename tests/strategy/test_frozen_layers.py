"""Layers that are frozen or unfrozen while training: whose they are, what they learn and what crosses."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from sfl_models import MLP, Classifier, adamw, fit, mlp, quiet_trainer, same
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import MessageLog, SplitFederatedStrategy
from lightning_sfl.link.message import MessageKind

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "fedavg")
FIRST = {"model.1.weight", "model.1.bias"}


class Thaws(Classifier):
    """Its first layer, the client's, is trained in some steps only: those in ``trained``."""

    def __init__(self, optimizer, trained) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), optimizer, schedule=False)
        self.trained = trained
        self.model[1].requires_grad_(0 in trained)

    def on_train_batch_start(self, batch, batch_idx):
        self.model[1].requires_grad_(self.trainer.global_step in self.trained)


class Backbone(pl.LightningModule):
    """A backbone that the callback freezes, and gives to the optimizer when it unfreezes it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.head = nn.Linear(6, 4)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def strategy(algorithm, cut, **options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(cut=None if algorithm == "fedavg" else cut, algorithm=algorithm, **options)


def finetuning() -> BackboneFinetuning:
    return BackboneFinetuning(2, lambda epoch: 1.0, backbone_initial_lr=0.1, verbose=False)


def close(one, other) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "trained",
    [range(4, 99), range(5, 99), range(5), (0, 1, 4, 7)],
    ids=["at an epoch", "unfrozen in a round", "frozen in a round", "to and fro"],
)
def test_one_client_trains_thawing_layers_bit_for_bit_like_plain_lightning(algorithm, every, trained):
    """Epochs of 4 steps and rounds of 1 or 3: steps 4 and 5 lie within the second round of 3 (steps 3, 4, 5)."""
    results = []
    for chosen in ("auto", strategy(algorithm, "model.4", num_clients=1, aggregate_every=every)):
        module = Thaws(adamw, trained)
        fit(module, MLP.loader(8, 2, shuffle=True), chosen, max_epochs=3)
        results.append(module.state_dict())
    assert same(*results)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("every", [1, 3])
def test_one_client_finetunes_a_backbone_bit_for_bit_like_plain_lightning(algorithm, every):
    """The callback unfreezes at epoch 2, that is at step 8 in epochs of 4: in mid-round for rounds of 3."""
    results = []
    for chosen in ("auto", strategy(algorithm, "backbone", num_clients=1, aggregate_every=every)):
        module = Backbone()
        fit(module, MLP.loader(8, 2, shuffle=True), chosen, callbacks=[finetuning()], max_epochs=4)
        results.append(module.state_dict())
    assert same(*results)
    assert not torch.equal(results[0]["backbone.1.weight"], Backbone().state_dict()["backbone.1.weight"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_layer_given_to_the_optimizer_later_is_trained_from_then_on(algorithm):
    """It was never frozen: until epoch 1, that is step 4, in mid-round, its gradients go to no optimizer."""

    class Gives(Backbone):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.optimizers().optimizer.add_param_group({"params": list(self.backbone.parameters())})

    results = []
    for chosen in ("auto", strategy(algorithm, "backbone", num_clients=1, aggregate_every=3)):
        module = Gives()
        fit(module, MLP.loader(8, 2, shuffle=True), chosen, max_epochs=3)
        results.append(module.state_dict())
    assert same(*results)
    assert not torch.equal(results[0]["backbone.1.weight"], Backbone().state_dict()["backbone.1.weight"])


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_a_step_watched_in_a_round_in_which_a_layer_was_frozen_is_not_refused(algorithm):
    """Epochs of one step, rounds of 3: frozen at step 49, in the round of 48 to 50; step 50 is watched again."""
    results = []
    for chosen in ("auto", strategy(algorithm, "model.4", num_clients=1, aggregate_every=3)):
        module = Thaws(adamw, range(49))
        fit(module, MLP.loader(2, 2), chosen, max_epochs=52)
        results.append(module.state_dict())
    assert same(*results)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("trained", [range(2, 99), range(2), (1, 3)], ids=["unfrozen", "frozen", "to and fro"])
def test_several_clients_train_thawing_layers_like_the_concatenated_batch(algorithm, trained):
    """Law 2: each client's whole part in every step, so that together they are the plain run's one batch of 12."""
    plain, split = Thaws(plain_sgd, trained), Thaws(plain_sgd, trained)
    fit(plain, MLP.loader(12, 12), "auto", max_epochs=5)
    fit(split, MLP.loader(12, 4), strategy(algorithm, "model.4", num_clients=3, partition="iid"), max_epochs=5)
    close(plain, split)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_several_clients_finetune_a_backbone_like_the_concatenated_batch(algorithm):
    plain, split = Backbone(), Backbone()
    fit(plain, MLP.loader(12, 12), "auto", callbacks=[finetuning()], max_epochs=5)
    chosen = strategy(algorithm, "backbone", num_clients=3, partition="iid")
    fit(split, MLP.loader(12, 4), chosen, callbacks=[finetuning()], max_epochs=5)
    close(plain, split)


@pytest.mark.parametrize("algorithm", ["splitfed_v1", "fedavg"])
@pytest.mark.parametrize("trained", [range(1, 99), range(2), (0, 2, 4)], ids=["unfrozen", "frozen", "to and fro"])
def test_a_layer_frozen_or_unfrozen_in_mid_round_is_each_clients_own_until_the_round_ends(algorithm, trained):
    """By hand: each client trains its whole copy on its own data; after 3 steps the copies are averaged."""
    split = Thaws(plain_sgd, trained)
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    chosen = strategy(algorithm, "model.4", num_clients=3, partition=parts, aggregate_every=3)
    fit(split, MLP.loader(12, 4), chosen, max_epochs=6)

    images, labels = MLP.dataset(12).images, MLP.dataset(12).targets
    mean = Thaws(plain_sgd, trained).model
    for round_steps in (range(3), range(3, 6)):
        copies = [copy.deepcopy(mean) for _ in parts]
        for step in round_steps:
            for part, own in zip(parts, copies, strict=True):
                own[1].requires_grad_(step in trained)
                own.zero_grad()
                cross_entropy(own(images[part]), labels[part]).backward()
                plain_sgd(own.parameters()).step()
        with torch.no_grad():
            for name, tensor in mean.named_parameters():
                tensor.copy_(torch.stack([own.get_parameter(name) for own in copies]).mean(0))
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("trained", [range(3, 6), range(3, 5)], ids=["frozen between rounds", "frozen in mid-round"])
def test_layers_cross_in_broadcasts_and_updates_while_they_are_trained(algorithm, trained):
    """One step per epoch, and rounds of 2 steps, which begin with 0, 2, 4 and 6 and end with 1, 3, 5 and 7.

    Unfrozen in mid-round (step 3), the layer was not broadcast but is uploaded. Frozen for step 6, or in mid-round for
    step 5, it was broadcast and is uploaded in the round of steps 4 and 5; its mean is broadcast once more, and then it
    crosses no more.
    """
    log = MessageLog()
    module = Thaws(plain_sgd, trained)
    chosen = strategy(algorithm, "model.4", num_clients=2, aggregate_every=2, message_log=log)
    fit(module, MLP.loader(8, 4), chosen, max_epochs=8)

    def with_the_first_layer(kind):
        messages = list(log.messages(kinds=[kind]))
        assert all(m.tensors.keys() >= FIRST or not FIRST & m.tensors.keys() for m in messages)
        return [(m.round, m.client) for m in messages if m.tensors.keys() >= FIRST]

    assert with_the_first_layer(MessageKind.BROADCAST) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert with_the_first_layer(MessageKind.CLIENT_UPDATE) == [(1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("goes_on", [False, True], ids=["whole", "gone on with"])
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_frozen_layer_is_broadcast_to_each_client_once_when_it_takes_part_again(algorithm, goes_on, tmp_path):
    """Frozen after two steps; one of three clients takes part in a round of one step.

    Gone on with after step 4 (epoch 3), a run sends what the one that was not stopped would have sent.
    """

    def train(log, **options):
        module = Thaws(plain_sgd, range(2))
        chosen = strategy(algorithm, "model.4", num_clients=3, clients_per_round=1, seed=3, message_log=log)
        folder = tmp_path / ("second" if options else "first")
        saving = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        trainer = quiet_trainer(
            strategy=chosen, max_epochs=16, limit_train_batches=1, enable_checkpointing=True, callbacks=[saving]
        )
        trainer.fit(module, MLP.loader(12, 4), weights_only=True, **options)
        return module.state_dict(), list(log.messages(kinds=[MessageKind.BROADCAST]))

    weights, messages = train(MessageLog())
    if goes_on:
        again, rest = train(MessageLog(), ckpt_path=tmp_path / "first" / "epoch=3.ckpt")
        messages = [*(message for message in messages if message.round < 4), *rest]
        assert same(weights, again)
        assert any(message.tensors.keys() >= FIRST for message in rest)
    first_time: set[int] = set()
    for message in messages:
        if message.round < 2:
            assert message.tensors.keys() >= FIRST
            continue
        assert (message.tensors.keys() >= FIRST) == (message.client not in first_time)
        first_time.add(message.client)
        for name in FIRST & message.tensors.keys():
            assert torch.equal(message.tensors[name], weights[name])
    assert first_time == {0, 1, 2}


@pytest.mark.parametrize("algorithm", ["splitfed_shared"])
def test_a_frozen_layer_is_sent_to_those_who_compute_it(algorithm):
    """Client 1 cuts before the second linear layer, which is frozen after two steps; client 0 cuts behind it."""

    class ThawsSecond(Thaws):
        def on_train_batch_start(self, batch, batch_idx):
            self.model[3].requires_grad_(self.trainer.global_step in self.trained)

    module, log = ThawsSecond(plain_sgd, range(2)), MessageLog()
    cuts = {0: "model.4", 1: "model.2"}
    fit(module, MLP.loader(8, 4), strategy(algorithm, cuts, num_clients=2, message_log=log), max_epochs=5)
    sent = [(m.round, m.client) for m in log.messages(kinds=[MessageKind.BROADCAST]) if "model.3.weight" in m.tensors]
    assert sent == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("trained", [range(2), range(2, 99)], ids=["frozen", "unfrozen"])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_run_goes_on_in_the_round_in_which_a_layer_was_frozen_or_unfrozen(algorithm, trained, tmp_path):
    """Law 8: epochs of one step, a round of 4, a change at step 2, and a checkpoint after step 3 (epoch 2)."""

    def chosen():
        return strategy(algorithm, "model.4", num_clients=2, aggregate_every=4)

    whole, resumed = Thaws(adamw, trained), Thaws(adamw, trained)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(whole, MLP.loader(8, 4), chosen(), callbacks=[saving], enable_checkpointing=True, max_epochs=5)
    trainer = quiet_trainer(strategy=chosen(), max_epochs=5)
    trainer.fit(resumed, MLP.loader(8, 4), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
    assert same(whole.state_dict(), resumed.state_dict())
