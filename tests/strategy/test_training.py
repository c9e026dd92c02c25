"""Training through the strategy: steps, parties, logged values, and what comes with a Trainer."""

import pytest
import torch
from sfl_models import (
    BERT,
    GPT2,
    MLP,
    VGG,
    Classifier,
    HuggingFace,
    fit,
    mlp,
    quiet_trainer,
    same,
    sgd,
    vgg,
)
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from training_cases import Each, strategy

from lightning_sfl import MessageLog, SplitFederatedStrategy
from lightning_sfl.data.batches import ClientBatches
from lightning_sfl.link.message import Message, MessageKind


def test_the_strategy_is_registered_by_name_with_arguments_at_their_defaults():
    trainer = quiet_trainer(strategy="split_federated", max_epochs=1)
    assert isinstance(trainer.strategy, SplitFederatedStrategy)
    trainer.fit(MLP.module(sgd), MLP.loader(20, 2))
    assert trainer.global_step == 1  # 20 samples, 10 clients of a batch of 2


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
