"""`precision="16-mixed"`: one loss scaler for all parties. On the CPU, with Lightning's plugin and a real scaler."""

import copy
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from resume_cases import differences
from sfl_models import GPT2, MLP, RESNET, VGG, Classifier, adamw, fit, mlp, quiet_trainer, sgd
from test_law1 import ALGORITHMS, strategy_for_one_client
from torch.nn.functional import cross_entropy

from lightning_sfl import MessageLog, SplitFederatedStrategy
from lightning_sfl.link.message import MessageKind

PARALLEL = ("splitfed_shared", "splitfed_v1", "fedavg")


def half(init_scale: float = 2.0**12, device: str = "cpu", **options) -> MixedPrecision:
    scaler = torch.amp.GradScaler(device, init_scale=init_scale, **options)
    return MixedPrecision("16-mixed", device, scaler)


def ended(trainer: pl.Trainer) -> list:
    """What a run ends with."""
    optimizer, module = trainer.strategy.optimizers[0], trainer.lightning_module
    return [dict(module.state_dict()), optimizer.state_dict(), trainer.precision_plugin.state_dict()]


class Steps(pl.Callback):
    """Notes the scale after every batch."""

    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.scales.append(trainer.precision_plugin.scaler.get_scale())


@pytest.mark.parametrize("kind", [RESNET, VGG, GPT2], ids=lambda kind: kind.name)
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_client_trains_bit_for_bit_like_plain_lightning(kind, optimizer, algorithm):
    """The first steps overflow and are skipped; later the scale grows after two steps, and overflows again.

    Clipped by value, which no party needs another for; on unscaled gradients, or nearly all of them would be clipped.
    """
    results, seen = [], []
    for strategy in ("auto", strategy_for_one_client(kind, kind.cuts[1], algorithm, 12, 3)):
        module, steps = kind.module(optimizer), Steps()
        module.schedule = False
        trainer = fit(
            module,
            kind.loader(12, 3, shuffle=True),
            strategy,
            val=kind.loader(4, 4),
            max_epochs=3,
            plugins=[half(2.0**22, growth_interval=2, growth_factor=4.0)],
            callbacks=[steps],
            gradient_clip_val=0.01,
            gradient_clip_algorithm="value",
        )
        results.append(ended(trainer))
        seen.append(steps.scales)
    assert differences(*results) == []
    assert seen[0] == seen[1]
    assert seen[0][0] == 2.0**21
    assert any(later > earlier for earlier, later in zip(seen[0], seen[0][1:], strict=False))


@pytest.mark.parametrize("algorithm", PARALLEL)
@pytest.mark.parametrize(("accumulates", "init_scale"), [(2, 2.0**20), (3, 1000.0)])
def test_it_accumulates_bit_for_bit_like_plain_lightning(algorithm, accumulates, init_scale):
    """Epochs of 5 batches. The scale need not be a power of two."""
    results = []
    for strategy in ("auto", strategy_for_one_client(RESNET, RESNET.cuts[1], algorithm, 14, 2)):
        module = RESNET.module(adamw)
        module.schedule = False
        options = {"accumulate_grad_batches": accumulates, "plugins": [half(init_scale, growth_interval=2)]}
        results.append(ended(fit(module, RESNET.loader(14, 3, shuffle=True), strategy, max_epochs=3, **options)))
    assert differences(*results) == []


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
@pytest.mark.parametrize("accumulates", [1, 2])
def test_a_step_that_is_skipped_unscales_nothing(accumulates):
    """Where the last batch of a step has no loss, plain Lightning does not step either, on nothing of the others."""

    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (1, 2) else super().training_step(batch, batch_idx)

    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut="model.2", num_clients=1, aggregate_every=2)):
        torch.manual_seed(0)
        module = Skips(mlp(), sgd, schedule=False)
        options = {"accumulate_grad_batches": accumulates, "plugins": [half()]}
        results.append(ended(fit(module, MLP.loader(12, 2), strategy, max_epochs=2, **options)))
    assert differences(*results) == []


class Explodes(Classifier):
    """In the third step the loss of one client, that of the last samples, is finite and its gradient is not."""

    def __init__(self, factor: float = 1e6) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), sgd, schedule=False)
        self.factor = factor

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        last = MLP.dataset(18).images[12:]
        explodes = batch_idx == 2 and any(torch.equal(image, own) for image in batch[0] for own in last)
        return loss * self.factor if explodes else loss


class Weights(pl.Callback):
    """Notes everybody's weights and optimizer state after every batch, and the scale."""

    def __init__(self) -> None:
        self.seen: list = []
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        participants = trainer.strategy._federation.state_dict()["participants"]
        held = {client: (tensors, states) for client, (_, _, tensors, states) in participants.items()}
        server = dict(pl_module.state_dict())
        self.seen.append(copy.deepcopy([held, server, trainer.optimizers[0].state_dict()]))


@pytest.mark.parametrize("algorithm", PARALLEL)
@pytest.mark.parametrize("cut", ["model.2", {0: "model.2", 1: "model.2", 2: "model.4"}], ids=["one cut", "two cuts"])
def test_an_overflow_at_one_client_skips_everybody_and_halves_the_scale_once(algorithm, cut):
    """Of three clients with six samples each, in a round of ten steps."""
    weights = Weights()
    used = SplitFederatedStrategy(
        cut=None if algorithm == "fedavg" else cut,
        algorithm=algorithm,
        num_clients=3,
        partition=[[*range(6)], [*range(6, 12)], [*range(12, 18)]],
        aggregate_every=10,
    )
    loader = MLP.loader(18, 1)
    fit(Explodes(), loader, used, max_epochs=1, plugins=[half(2.0**10)], callbacks=[weights])
    assert weights.scales == [2.0**10] * 2 + [2.0**9] * 4
    assert differences(weights.seen[1], weights.seen[2]) == []
    for before, after in ((0, 1), (2, 3)):
        changed = differences(weights.seen[before], weights.seen[after])
        for client in range(3):
            assert any(where.startswith(f"[0].{client}[0]") for where in changed)


def test_an_overflow_in_any_batch_of_a_step_skips_it():
    """Steps of 2 batches: the third batch is the first of the second step."""
    weights = Weights()
    used = SplitFederatedStrategy(
        cut="model.2", num_clients=3, aggregate_every=10, partition=[[*range(6)], [*range(6, 12)], [*range(12, 18)]]
    )
    options = {"plugins": [half(2.0**10)], "callbacks": [weights], "accumulate_grad_batches": 2}
    fit(Explodes(), MLP.loader(18, 1), used, max_epochs=1, **options)
    assert weights.scales == [2.0**10] * 3 + [2.0**9] * 3
    assert differences(weights.seen[1], weights.seen[3]) == []


def test_a_loss_that_is_not_finite_still_stops_the_run():
    used = SplitFederatedStrategy(
        cut="model.2", num_clients=3, aggregate_every=10, partition=[[*range(6)], [*range(6, 12)], [*range(12, 18)]]
    )
    trainer = quiet_trainer(strategy=used, max_epochs=1, plugins=[half()])
    with pytest.raises(ValueError, match="Client 2 has a loss of inf"):
        trainer.fit(Explodes(float("inf")), MLP.loader(18, 1))


@pytest.mark.parametrize("accumulates", [1, 3])
@pytest.mark.parametrize("tiny", [1.0, 1e-6])
def test_cut_gradients_cross_freed_from_the_scale(tiny, accumulates):
    """In single precision: half precision, whose smallest number is 6e-8, would hold tiny ones as next to nothing.

    Of 2 and 1 samples, the weights are 2/3 and 1/3; what crosses is the gradient of each client's own mean.
    """

    class Tiny(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * tiny

    log = MessageLog()
    torch.manual_seed(0)
    module = Tiny(mlp(), sgd, schedule=False)
    start = copy.deepcopy(module.model)
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, partition=[[0, 1], [2]], message_log=log)
    options = {"plugins": [half()], "accumulate_grad_batches": accumulates}
    fit(module, MLP.loader(3, 2), used, max_epochs=1, **options)
    (first, second) = log.messages(kinds=[MessageKind.CUT_GRADIENT])
    data = MLP.dataset(3)
    for message, part in ((first, [0, 1]), (second, [2])):
        (sent,) = message.tensors.values()
        with torch.autocast("cpu", torch.half, cache_enabled=False):
            smashed = start[:3](data.images[part]).detach().requires_grad_()
            loss = cross_entropy(start[3:](smashed), data.targets[part]) * tiny
        (loss * 2**12).backward()
        assert smashed.dtype == torch.float16
        assert sent.dtype == torch.float32
        assert message.payload_bit == 32 * sent.numel()
        own = smashed.grad.float() / 2**12
        torch.testing.assert_close(sent, own, rtol=1e-2, atol=5e-3 * float(own.abs().max()))
        kept = torch.isclose(sent.half().float(), sent, rtol=1e-2, atol=0).float().mean()
        assert kept < 0.1 if tiny < 1 else kept > 0.9
    down = [message.payload_bit for message in (first, second)]
    assert used.link.meter.total(MessageKind.CUT_GRADIENT).payload_bit == sum(down)


def test_cut_gradients_are_freed_from_the_scale_of_their_own_step():
    """One batch, again and again, with a learning rate of 0: what crosses stays the same while the scale doubles."""
    log, steps = MessageLog(), Steps()
    torch.manual_seed(0)
    module = Classifier(mlp(), lambda parameters: torch.optim.SGD(parameters, lr=0.0), schedule=False)
    used = SplitFederatedStrategy(cut="model.2", num_clients=2, message_log=log)
    plugin = half(2.0**10, growth_interval=1)
    fit(module, MLP.loader(4, 2), used, max_epochs=4, plugins=[plugin], callbacks=[steps])
    assert steps.scales == [2.0**11, 2.0**12, 2.0**13, 2.0**14]
    sent = {(m.step, m.client): m.tensors["0"] for m in log.messages(kinds=[MessageKind.CUT_GRADIENT])}
    for client in range(2):
        for step in range(1, 4):
            torch.testing.assert_close(sent[step, client], sent[0, client], rtol=1e-2, atol=1e-5)


class Looks(Classifier):
    """Notes what gradient hooks show."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), sgd, schedule=False)
        self.seen: dict[str, list] = {"loss": [], "backward": [], "step": []}

    def look(self, hook):
        self.seen[hook].append({n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None})

    def on_before_backward(self, loss):
        self.seen["loss"].append(loss.detach().clone())

    def on_after_backward(self):
        self.look("backward")

    def on_before_optimizer_step(self, optimizer):
        self.look("step")


@pytest.mark.parametrize("algorithm", PARALLEL)
def test_hooks_see_scaled_and_unscaled_gradients_where_plain_lightning_shows_them(algorithm):
    """The parties' gradients of a step, put together, are plain training's, of three steps."""
    found = []
    for strategy in ("auto", strategy_for_one_client(MLP, "model.2", algorithm, 6, 2)):
        module = Looks()
        fit(module, MLP.loader(6, 2), strategy, max_epochs=1, plugins=[half()])
        parties = {"auto": 1, "fedavg": 1}.get(strategy if isinstance(strategy, str) else algorithm, 2)
        for hook in ("backward", "step"):
            shown = module.seen[hook]
            assert len(shown) == 3 * parties
            module.seen[hook] = [
                {name: g for own in shown[at : at + parties] for name, g in own.items()}
                for at in range(0, len(shown), parties)
            ]
        found.append(module.seen)
    plain, split = found
    names = sorted(plain["step"][0])
    ordered = [
        {hook: [{n: one[n] for n in names} for one in seen[hook]] for hook in ("backward", "step")} for seen in found
    ]
    assert differences(*ordered) == []
    assert differences(plain["loss"], split["loss"]) == []
    ratio = plain["backward"][0][names[0]] / plain["step"][0][names[0]]
    torch.testing.assert_close(ratio.nanmedian(), torch.tensor(2.0**12))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_goes_on_with_its_scale(algorithm, tmp_path: Path):
    """Law 8: saved after 5 of 9 steps, within a round, two steps after the scale last grew."""

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch.step == 4:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    def run(seed, path=None):
        module = RESNET.module(adamw, seed)
        module.schedule = False
        cut = None if algorithm == "fedavg" else "model.1"
        strategy = SplitFederatedStrategy(cut=cut, algorithm=algorithm, num_clients=2, aggregate_every=2)
        plugins = [half(2.0**20 if path is None else 2.0, growth_interval=3)]
        callbacks = [Saves()] if path is None else []
        pl.seed_everything(seed + 1, verbose=False)
        trainer = quiet_trainer(strategy=strategy, max_steps=9, max_epochs=-1, plugins=plugins, callbacks=callbacks)
        trainer.fit(module, RESNET.loader(12, 2, shuffle=True), ckpt_path=path, weights_only=True)
        return trainer

    assert differences(ended(run(0)), ended(run(5, tmp_path / "saved.ckpt"))) == []


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_16_mixed_on_a_gpu_is_plain_lightning(algorithm):
    """Bit for bit where CUDA's kernels are deterministic. The first step overflows."""
    results = []
    for strategy in ("auto", strategy_for_one_client(MLP, "model.2", algorithm, 12, 3)):
        module = MLP.module(sgd)
        module.schedule = False
        options = {"accelerator": "gpu", "devices": 1, "deterministic": True, "plugins": [half(2.0**26, "cuda")]}
        results.append(ended(fit(module, MLP.loader(12, 3), strategy, max_epochs=3, **options)))
    assert differences(*results) == []
