"""What happens in a split federated fit, seen from callbacks, the link and the optimizers."""

import lightning.pytorch as pl
import pytest
import torch
from sfl_models import (
    BERT,
    GPT2,
    MLP,
    RESNET,
    VGG,
    Classifier,
    HuggingFace,
    adamw,
    fit,
    mlp,
    quiet_trainer,
    same,
    sgd,
    vgg,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_sfl import MessageLog, SplitFederatedStrategy
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.message import Message, MessageKind


def strategy(**options) -> SplitFederatedStrategy:
    return SplitFederatedStrategy(**{"cut": "model.2", "num_clients": 3, **options})


class Each(pl.Callback):
    """Calls a function at the end of every training step."""

    def __init__(self, function) -> None:
        self.function = function

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.function(trainer, pl_module, outputs, batch)


def test_the_strategy_is_registered_by_name_with_arguments_at_their_defaults():
    trainer = quiet_trainer(strategy="split_federated", max_epochs=1)
    assert isinstance(trainer.strategy, SplitFederatedStrategy)
    trainer.fit(MLP.module(sgd), MLP.loader(20, 2))
    assert trainer.global_step == 1  # 20 samples, 10 clients of a batch of 2


def test_the_messages_of_a_round_come_in_order_and_name_sender_and_receiver():
    log = MessageLog()
    fit(MLP.module(adamw), MLP.loader(6, 2), strategy(num_clients=1, message_log=log, aggregate_every=2), max_epochs=2)
    messages = list(log.messages())
    first_round = [(m.kind.value, m.sender, m.receiver, m.step) for m in messages if m.round == 0]
    up, down, fed_up, fed_down = (
        ("client/0", "server"),
        ("server", "client/0"),
        ("client/0", "fed_server"),
        ("fed_server", "client/0"),
    )
    assert first_round == [
        ("broadcast", *fed_down, 0),
        ("label", *up, 0),
        ("smashed", *up, 0),
        ("cut_gradient", *down, 0),
        ("label", *up, 1),
        ("smashed", *up, 1),
        ("cut_gradient", *down, 1),
        ("client_update", *fed_up, 1),
        ("optimizer_state", *fed_up, 1),
    ]
    assert [m.kind.value for m in messages if m.round == 1][:2] == ["broadcast", "optimizer_state"]
    assert [m.number for m in messages] == list(range(len(messages)))
    assert {m.cut for m in messages} == {"model.2"}


def test_the_meter_counts_what_the_shapes_say():
    """MLP, cut behind Tanh: 16 floats per sample up and down, one 8-byte label.

    20 samples in one pass of 4 clients with 5 samples each, batch 5, one step. The client's half is Linear(192, 16):
    3088 floats, broadcast to and sent by each of the 4.
    """
    used = strategy(num_clients=4, batch_size=5)
    fit(MLP.module(lambda p: torch.optim.SGD(p, lr=0.1)), MLP.loader(20, 5), used, max_epochs=1)
    traffic = {kind.value: found.payload_byte for (kind, _), found in used.link.meter.by_kind().items()}
    assert traffic == {
        "broadcast": 4 * 3088 * 4,
        "label": 20 * 8,
        "smashed": 20 * 16 * 4,
        "cut_gradient": 20 * 16 * 4,
        "client_update": 4 * 3088 * 4,
    }


def test_a_log_on_disk_is_the_log_in_memory(tmp_path):
    logs = [MessageLog(), MessageLog(tmp_path / "log")]
    for log in logs:
        fit(VGG.module(sgd), VGG.loader(9, 2, shuffle=True), strategy(message_log=log), max_epochs=1)
    memory, disk = list(logs[0].messages()), list(MessageLog.open(tmp_path / "log").messages())
    assert len(memory) == len(disk) > 10
    for one, other in zip(memory, disk, strict=True):
        assert one.to_bytes() == other.to_bytes()
        assert same(dict(one.tensors), dict(other.tensors))
    assert logs[0].truth() == MessageLog.open(tmp_path / "log").truth()


def test_the_truth_names_the_records_whose_smashed_data_were_sent():
    """Recomputing the smashed data of the named records from the broadcast weights gives the message."""
    log, module = MessageLog(), MLP.module(sgd)
    fit(module, MLP.loader(12, 2, shuffle=True), strategy(message_log=log), max_epochs=1)
    truth, data, checked = log.truth(), MLP.dataset(12), 0
    weights = {(m.client, m.round): m.tensors for m in log.messages(kinds=[MessageKind.BROADCAST])}
    for message in log.messages(kinds=[MessageKind.SMASHED]):
        origin = truth[message.number]
        assert origin.client == message.client
        images = torch.stack([data[index][0] for index in origin.indices]).flatten(1)
        client = weights[message.client, message.round]
        expected = torch.tanh(nn.functional.linear(images, client["model.1.weight"], client["model.1.bias"]))
        assert torch.equal(message.tensors["0"], expected)
        checked += 1
    assert checked == 6


def test_the_log_holds_the_smashed_data_as_they_crossed_not_as_the_server_wrote_over_them():
    """VGG cut at its first norm: the ReLU behind it works in place, on the server."""
    log = MessageLog()
    fit(VGG.module(sgd), VGG.loader(4, 2), strategy(cut="model.1", num_clients=2, message_log=log), max_epochs=1)
    smashed = [message.tensors["0"] for message in log.messages(kinds=[MessageKind.SMASHED])]
    assert len(smashed) == 2
    assert all((tensor < 0).any() for tensor in smashed)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_a_clients_cut_gradient_is_that_of_its_own_mean_loss(algorithm):
    """Whatever its weight in the server's loss: clients of 1, 2 and 5 samples."""
    log, module = MessageLog(), MLP.module(sgd)
    parts = [[0], [1, 2], [3, 4, 5, 6, 7]]
    fit(
        module,
        MLP.loader(8, 5),
        strategy(partition=parts, algorithm=algorithm, message_log=log),
        max_epochs=1,
        max_steps=1,
    )
    server, data = MLP.module(sgd).model[3:], MLP.dataset(8)
    received = {m.client: m.tensors["0"] for m in log.messages(kinds=[MessageKind.CUT_GRADIENT])}
    for message in log.messages(kinds=[MessageKind.SMASHED]):
        smashed = message.tensors["0"].clone().requires_grad_()
        cross_entropy(server(smashed), data.targets[parts[message.client]]).backward()
        torch.testing.assert_close(received[message.client], smashed.grad, rtol=1e-5, atol=1e-8)


def test_a_frozen_prefix_sends_no_cut_gradient_and_no_weights():
    module = RESNET.module(lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1))
    module.model[0].requires_grad_(False)
    used = strategy(cut="model.0", num_clients=2)
    before = module.model[0][0].weight.clone()
    fit(module, RESNET.loader(8, 4), used, max_epochs=2)
    kinds = {kind.value: found.payload_bit for (kind, _), found in used.link.meter.by_kind().items()}
    assert "cut_gradient" not in kinds
    assert kinds["client_update"] == kinds["broadcast"] == 2 * 2 * (2 * 6 * 32 + 64)  # the norm's running statistics
    assert torch.equal(module.model[0][0].weight, before)


def test_every_partys_gradient_is_clipped_by_its_own_norm():
    """With a limit far below every norm each party's clipped gradient has exactly the limit's norm."""
    moved: list[float] = []

    class Clipped(Classifier):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            moved.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    torch.manual_seed(0)
    module = Clipped(mlp(), lambda p: torch.optim.SGD(p, lr=1.0), schedule=False)
    fit(module, MLP.loader(12, 2), strategy(), max_epochs=1, gradient_clip_val=1e-3)
    assert len(moved) == 2 * (1 + 3)  # two steps, the server and three clients
    assert moved == pytest.approx([1e-3] * 8, rel=1e-4)


def test_clients_follow_the_users_schedule_group_by_group():
    """With gradients of one, SGD's step is the learning rate, which must be the scheduled one in every group."""

    class Scheduled(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(
                [{"params": [p], "lr": 0.1 * (place + 1)} for place, p in enumerate(self.parameters())], lr=1.0
            )
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "step"}]

        def training_step(self, batch, batch_idx):
            return sum(p.sum() for p in self.parameters())

    torch.manual_seed(0)
    module = Scheduled(mlp(), sgd)
    before = [p.detach().clone() for p in module.parameters()]
    # The penalty reads every weight, so this goes without a cut; every client is then its own optimizer.
    fit(module, MLP.loader(12, 2), strategy(cut=None, algorithm="fedavg", num_clients=2), max_epochs=1)
    for place, (old, new) in enumerate(zip(before, module.parameters(), strict=True)):
        expected = old - 0.1 * (place + 1) * (1 + 0.5 + 0.25)
        torch.testing.assert_close(new.detach(), expected, rtol=1e-5, atol=1e-5)


def test_participants_are_drawn_per_round_and_only_they_own_anything():
    seen: list[tuple[int, tuple[int, ...], int]] = []

    def note(trainer, module, outputs, batch):
        federation = trainer.strategy._federation
        seen.append(
            (batch.round, tuple(batch), len(federation.participants) + sum(map(len, federation._idle.values())))
        )

    used = strategy(num_clients=20, clients_per_round=4, aggregate_every=3, batch_size=2)
    fit(MLP.module(sgd), MLP.loader(80, 2), used, callbacks=[Each(note)], max_epochs=2)
    by_round: dict[int, set[tuple[int, ...]]] = {}
    for number, clients, owners in seen:
        by_round.setdefault(number, set()).add(clients)
        assert len(clients) == 4
        assert owners == 4  # registered clients that take no part cost nothing
    assert all(len(clients) == 1 for clients in by_round.values())  # they stay for the round
    assert len(set.union(*by_round.values())) > 1  # and change between rounds
    assert len(seen) == 2 * 10  # ceil(80 / (4/20 · 20 · 2)) steps per epoch


def test_values_logged_in_a_step_are_weighted_means_over_the_clients_of_the_step():
    """Clients of 1 and 3 samples log their client number: the step's mean is (1·0 + 3·1) / 4, as is the epoch's.

    The sum is 1, the maximum 1, whichever client comes last.
    """

    class Logs(Classifier):
        def training_step(self, batch, batch_idx):
            number = float(len(batch[1]) == 3)
            self.log("mean", number, on_step=True, on_epoch=True)
            self.log("step_only", number)
            self.log("sum", number, on_step=True, on_epoch=True, reduce_fx="sum")
            self.log("max", number, on_step=True, on_epoch=True, reduce_fx="max")
            return super().training_step(batch, batch_idx)

    steps: list[dict[str, float]] = []
    torch.manual_seed(0)
    note = Each(lambda trainer, *_: steps.append({k: float(v) for k, v in trainer.logged_metrics.items()}))
    used = strategy(num_clients=2, partition=[[0, 1, 2], [3]], batch_size=3)
    trainer = fit(Logs(mlp(), sgd), MLP.loader(4, 3), used, callbacks=[note], max_epochs=1)
    assert steps[0]["mean_step"] == steps[0]["step_only"] == 0.75
    assert steps[0]["sum_step"] == 1.0
    assert steps[0]["max_step"] == 1.0
    assert float(trainer.logged_metrics["mean_epoch"]) == 0.75
    assert float(trainer.logged_metrics["sum_epoch"]) == 1.0


def test_callbacks_receive_the_clients_batches_and_the_weighted_mean_loss():
    losses: list[tuple[float, float]] = []

    def note(trainer, module, outputs, batch):
        assert isinstance(batch, ClientBatches)
        assert list(batch) == [0, 1, 2]
        assert batch.sizes() == {0: 2, 1: 2, 2: 2}
        assert batch[1][0].shape == (2, 3, 8, 8)
        images = torch.cat([batch[client][0] for client in batch])
        labels = torch.cat([batch[client][1] for client in batch])
        losses.append((float(outputs["loss"]), float(cross_entropy(start.model(images), labels).detach())))

    start = MLP.module(sgd)
    fit(MLP.module(sgd), MLP.loader(6, 2), strategy(), callbacks=[Each(note)], max_epochs=1)
    (step,) = losses
    assert step[0] == pytest.approx(step[1], rel=1e-6)


def test_a_mapping_from_training_step_comes_back_with_its_other_values_by_client():
    class Rich(Classifier):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "count": len(batch[1])}

    outputs: list[dict] = []
    torch.manual_seed(0)
    fit(
        Rich(mlp(), sgd),
        MLP.loader(6, 2),
        strategy(),
        callbacks=[Each(lambda t, m, o, b: outputs.append(o))],
        max_epochs=1,
    )
    assert outputs[0]["count"] == {0: 2, 1: 2, 2: 2}
    assert outputs[0]["loss"].ndim == 0


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_a_client_that_returns_none_takes_no_part_in_the_step(algorithm):
    """Client 1 always skips: the result is that of client 0 alone, its samples count in no weight."""

    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch[1][0] >= 100 else super().training_step(batch, batch_idx)

    class Marked(torch.utils.data.Dataset):
        def __init__(self, size):
            self.data, self.size = MLP.dataset(8), size

        def __len__(self):
            return self.size

        def __getitem__(self, index):
            image, label = self.data[index]
            return image, label + 100 * (index >= 4)

    results = []
    for parts, size in (([[0, 1, 2, 3], [4, 5, 6, 7]], 8), ([[0, 1, 2, 3]], 4)):
        torch.manual_seed(0)
        module = Skips(mlp(), lambda p: torch.optim.SGD(p, lr=0.1), schedule=False)
        used = strategy(algorithm=algorithm, num_clients=len(parts), partition=parts)
        fit(module, torch.utils.data.DataLoader(Marked(size), batch_size=2), used, max_epochs=1)
        results.append(module.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_step_that_every_client_skips_changes_nothing():
    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None

    torch.manual_seed(0)
    module = Skips(mlp(), sgd, schedule=False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fit(module, MLP.loader(6, 2), strategy(), max_epochs=2)
    assert same(before, module.state_dict())


def test_transfer_hooks_run_on_every_clients_own_batch():
    shapes: list[tuple[str, tuple[int, ...]]] = []

    class Hooked(Classifier):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            shapes.append(("before", tuple(batch[0].shape)))
            return batch[0] + 1, batch[1]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            shapes.append(("after", tuple(batch[0].shape)))
            return batch[0] * 2, batch[1]

        def training_step(self, batch, batch_idx):
            assert batch[0].min() >= 2
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Hooked(mlp(), sgd)
    fit(module, MLP.loader(6, 2), strategy(), max_epochs=1)
    assert shapes == [("before", (2, 3, 8, 8))] * 3 + [("after", (2, 3, 8, 8))] * 3
    assert "on_before_batch_transfer" not in vars(module)


def test_gradient_checkpointing_recomputes_without_crossing_twice():
    class Checkpointed(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            hidden = checkpoint(self.model[:5], x, use_reentrant=False)
            return cross_entropy(self.model[5:](hidden), y)

    used = strategy(cut="model.1", num_clients=1, partition=[list(range(8))])
    results = []
    for chosen in ("auto", used):
        torch.manual_seed(0)
        module = Checkpointed(vgg(), sgd)
        fit(module, VGG.loader(8, 2), chosen, max_epochs=2)
        results.append(module.state_dict())
    assert same(*results)  # the norm's statistics move twice per step in both, as recomputation makes them
    assert used.link.meter.total(MessageKind.SMASHED).messages == 8
    assert used.link.meter.total(MessageKind.CUT_GRADIENT).messages == 8


def test_under_bf16_mixed_the_smashed_data_cross_in_16_bits():
    log = MessageLog()
    trainer = fit(
        MLP.module(sgd),
        MLP.loader(6, 2),
        strategy(cut="model.1", message_log=log),
        max_epochs=1,
        precision="bf16-mixed",
    )
    smashed: list[Message] = list(log.messages(kinds=[MessageKind.SMASHED]))
    assert all(message.tensors["0"].dtype is torch.bfloat16 for message in smashed)
    assert smashed[0].payload_bit == 2 * 16 * 16
    assert trainer.global_step == 1


def test_the_watched_step_belongs_to_its_client_alone():
    """The first client's pass moves its own running statistics; everybody else starts from the untouched ones.

    After one step with momentum 0.1 the global mean is the clients' mean of 0.1 · batch mean, weighted by samples.
    """
    log, module = MessageLog(), VGG.module(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    parts = [[0, 1], [2, 3, 4, 5]]
    used = strategy(cut="model.2", num_clients=2, partition=parts, batch_size=4, message_log=log)
    fit(module, VGG.loader(6, 4), used, max_steps=1, max_epochs=1)
    for message in log.messages(kinds=[MessageKind.BROADCAST]):
        assert message.tensors["model.1.running_mean"].eq(0).all()
        assert message.tensors["model.1.running_var"].eq(1).all()
    images = VGG.dataset(6).images
    means = [module.model[0](images[part]).mean((0, 2, 3)).detach() for part in parts]
    expected = 0.1 * (means[0] * 2 + means[1] * 4) / 6
    torch.testing.assert_close(module.model[1].running_mean, expected)
    assert module.model[1].num_batches_tracked == 1


def test_the_first_step_runs_once_and_is_watched_without_a_trace():
    calls: list[int] = []

    class Counted(HuggingFace):
        def training_step(self, batch, batch_idx):
            calls.append(len(batch["input_ids"]))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    used = strategy(cut="model.transformer.h.0", num_clients=2, server_inputs=("labels",))
    module = Counted(GPT2.make(), sgd)
    fit(module, GPT2.loader(8, 2), used, max_epochs=1)
    assert calls == [2] * 4
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_masks_and_labels_are_metered_beside_the_smashed_data():
    used = strategy(cut="model.bert.encoder.layer.0", num_clients=2)
    fit(BERT.module(sgd), BERT.loader(8, 4), used, max_epochs=1)
    kinds = {kind.value for kind, _ in used.link.meter.by_kind()}
    assert kinds == {"broadcast", "mask", "label", "smashed", "cut_gradient", "client_update", "optimizer_state"}


def test_a_step_schedule_laid_out_for_the_plain_run_is_warned_about():
    class OneCycle(Classifier):
        def configure_optimizers(self):
            optimizer = self.make_optimizer(self.parameters())
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="OneCycleLR is laid out for 12 steps, but this run has 4"):
        fit(OneCycle(mlp(), sgd), MLP.loader(24, 2), strategy(), max_epochs=1)


def test_the_number_of_steps_is_known_when_the_optimizer_is_made():
    class OneCycle(Classifier):
        def configure_optimizers(self):
            optimizer = self.make_optimizer(self.parameters())
            self.steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=self.steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    torch.manual_seed(0)
    module = OneCycle(mlp(), sgd)
    trainer = fit(module, MLP.loader(24, 2), strategy(), max_epochs=2)
    assert trainer.global_step == module.steps == 8


def test_loaders_can_be_reloaded_every_epoch_and_a_strategy_fitted_twice():
    used, module, steps = strategy(aggregate_every=3), MLP.module(sgd), []
    note = Each(lambda trainer, module, outputs, batch: steps.append((batch.step, batch.round)))
    options = {"reload_dataloaders_every_n_epochs": 1, "callbacks": [note]}
    trainer = fit(module, MLP.loader(12, 2), used, max_epochs=2, **options)
    assert trainer.global_step == 4
    assert steps == [(0, 0), (1, 0), (2, 0), (3, 1)]
    first = used.link.meter.total().messages
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, MLP.loader(12, 2))
    assert trainer.global_step == 8
    assert used.link.meter.total().messages == first  # a meter counts one fit


def test_persistent_workers_end_with_the_fit():
    """Left to the garbage collector, each takes seconds to end."""
    used = SplitFederatedStrategy(cut="model.1", num_clients=2)
    loader = MLP.loader(8, 2, num_workers=1, persistent_workers=True)
    fit(MLP.module(sgd), loader, used, max_epochs=2)
    assert used._loader._loader._iterator is None
