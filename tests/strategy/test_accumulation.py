"""`Trainer(accumulate_grad_batches=k)`: an optimizer step of k batches of every participant, and rounds of those."""

import contextlib
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from resume_cases import Stopped, differences
from round_cases import ALGORITHMS as ALL_ALGORITHMS
from round_cases import Loses, Run, adamw, assert_close, common, data, job, momentum, network, train
from sfl_models import GPT2, RESNET, Classifier, fit, quiet_trainer, same, sgd
from sfl_models import adamw as adamw_of_floats
from straight_loops import FedServer
from test_law1 import strategy_for_one_client
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.allocation import Allocation
from lightning_sfl.link.message import MessageKind

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "fedavg")
UNEVEN = [[*range(7)], [*range(7, 10)], [*range(10, 16)]]


@pytest.mark.parametrize(("kind", "optimizer"), [(RESNET, adamw_of_floats), (GPT2, sgd)], ids=["resnet", "gpt2"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("accumulates", "every", "limit"), [(2, 1, None), (3, 2, None), (3, 1, 4), (7, 3, None)])
def test_one_client_accumulates_bit_for_bit_like_plain_lightning(kind, optimizer, algorithm, accumulates, every, limit):
    """Epochs of 5 batches (or 4), the last one short: the last group of each is not full. 1/3 and 1/7 are rounded."""
    results = []
    for strategy in ("auto", strategy_for_one_client(kind, kind.cuts[1], algorithm, 14, every)):
        module = kind.module(optimizer)
        trainer = fit(
            module,
            kind.loader(14, 3, shuffle=True),
            strategy,
            val=kind.loader(4, 4),
            max_epochs=3,
            val_check_interval=2,
            limit_train_batches=limit,
            accumulate_grad_batches=accumulates,
        )
        state = trainer.strategy.optimizers[0].state_dict()
        results.append([dict(module.state_dict()), state, dict(trainer.callback_metrics), trainer.global_step])
    assert differences(*results) == []


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_batch_that_is_skipped_leaves_the_others_of_its_step():
    """The third batch of the first group, and the whole of the second, whose optimizer step has nothing to step on."""

    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (2, 3, 4, 5) else super().training_step(batch, batch_idx)

    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut="model.2", num_clients=1, partition="iid")):
        torch.manual_seed(0)
        module = Skips(RESNET.make(), sgd, schedule=False)
        fit(module, RESNET.loader(16, 2), strategy, max_epochs=2, accumulate_grad_batches=3)
        results.append(module.state_dict())
    assert same(*results)


def test_gradients_of_an_epoch_that_is_left_off_are_let_go_of():
    """The second epoch is left off at its third batch, in the middle of a group; its first group was stepped on."""

    class Module(Classifier):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if (self.trainer.current_epoch, batch_idx) == (1, 3) else None

    results = []
    for strategy in ("auto", SplitFederatedStrategy(cut="model.2", num_clients=1, aggregate_every=2)):
        torch.manual_seed(0)
        module = Module(RESNET.make(), sgd, schedule=False)
        fit(module, RESNET.loader(12, 2), strategy, max_epochs=3, accumulate_grad_batches=2)
        results.append(module.state_dict())
    assert same(*results)


class Groups(pl.Callback):
    """Notes of every batch in which optimizer step it is, as Lightning counts them, and in which epoch."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.marks: list[tuple[bool, bool]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(trainer.global_step)
        self.marks.append((batch.begins_optimizer_step, batch.closes_round))


def accumulated(algorithm, accumulates, *, lost=frozenset(), trainer_options=None, **options) -> tuple[Run, Groups]:
    """Seven steps in rounds of two, of three clients with batches of two."""
    groups = Groups()
    settings = {"aggregate_every": 2, "parts": UNEVEN, "batch_size": 2, "norm": False, "steps": 7, **options}
    run = train(
        algorithm=algorithm,
        callbacks=[groups],
        attendance=Loses(lost),
        trainer_options={"accumulate_grad_batches": accumulates, **(trainer_options or {})},
        **settings,
    )
    return run, groups


def straight(
    run: Run, groups: Groups, accumulates: int, algorithm: str, optimizer, *, every=2, lost=frozenset()
) -> dict[str, torch.Tensor]:
    """How a run ends, written down once more: batch by batch, with the groups as Lightning stepped.

    ``lost`` are (client, step): from that batch on a client does nothing, to the end of its round.
    """
    told = job(run, optimizer, every=every, parts=UNEVEN)
    whole = network(norm=False)
    depth = len(whole) if algorithm in ("splitfed_v1", "fedavg") else 3
    fed, main = FedServer(told, whole[:depth]), common(told, whole[depth:])
    numbers = sorted(set(groups.steps))
    for first in range(0, len(numbers), every):
        batches = [at for at, step in enumerate(groups.steps) if step in numbers[first : first + every]]
        parties = {client: fed.hand_out(client) for client in told.steps[batches[0]]}
        samples, gone = dict.fromkeys(parties, 0), set()
        for number in numbers[first : first + every]:
            for party in [*parties.values(), *([main] if main else [])]:
                party.optimizer.zero_grad()
            for at in [at for at in batches if groups.steps[at] == number]:
                gone |= {client for client, stage, step in lost if step == at}
                step = {client: indices for client, indices in told.steps[at].items() if client not in gone}
                shares = told.loss_shares(step)
                for client, indices in step.items():
                    images, labels = told.batch(indices)
                    hidden = parties[client].network(images)
                    received = hidden.detach().requires_grad_()
                    loss = cross_entropy(main.network(received) if main else received, labels)
                    (loss * shares[client] / accumulates).backward()
                    hidden.backward(received.grad / shares[client])
                    samples[client] += len(indices)
            for party in [*parties.values(), *([main] if main else [])]:
                party.optimizer.step()
        here = {client: count for client, count in samples.items() if client not in gone and count}
        if here:
            fed.take_in({client: parties[client] for client in here}, told.shares(here))
    return nn.Sequential(*fed.network, *(main.network if main else ())).state_dict()


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("accumulates", "limit"), [(2, None), (2, 2), (3, 2), (5, None)])
def test_several_clients_accumulate_like_a_straight_line_loop(algorithm, optimizer, accumulates, limit):
    """Epochs of 3 batches, or 2; batches of 2, 2, 2, 1 | 2, 1 | 2, 2, 2 samples; rounds of 2 optimizer steps."""
    run, groups = accumulated(
        algorithm, accumulates, optimizer=optimizer, trainer_options={"limit_train_batches": limit}
    )
    batches = limit or 3
    per_epoch = -(-batches // accumulates)
    assert groups.steps == [
        batch // batches * per_epoch + batch % batches // accumulates for batch in range(len(groups.steps))
    ]
    assert groups.marks == [
        (batch % batches % accumulates == 0, step % 2 == 1) for batch, step in enumerate(groups.steps)
    ]
    assert run.asks.rounds == [step // 2 for step in groups.steps]
    assert_close(run.weights, straight(run, groups, accumulates, algorithm, optimizer))


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_is_lost_in_the_middle_of_a_group_counts_in_the_batches_it_took_part_in(algorithm, optimizer):
    """Client 1 is lost at the second batch of the first step, client 0 at the first of the second round.

    Epochs of 3 batches in steps of 2 and 1; rounds of 2 steps, so of 3 batches. The shared server's gradient of a batch
    is normalised by those present in that batch.
    """
    lost = {(1, "before_forward", 1), (0, "after_forward", 3)}
    run, groups = accumulated(algorithm, 2, optimizer=optimizer, lost=lost)
    assert_close(run.weights, straight(run, groups, 2, algorithm, optimizer, lost=lost))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_takes_part_stays_for_whole_steps(algorithm, workers):
    """Two of three clients in a round of two steps of 3 and 1 batches, also where workers fetch ahead."""
    run, groups = accumulated(algorithm, 3, clients_per_round=2, workers=workers)
    drawn = [tuple(sorted(step)) for step in run.asks.steps]
    assert all(drawn[at] == drawn[at - 1] for at in range(1, len(drawn)) if at % 4)
    assert len(set(drawn)) > 1
    assert_close(run.weights, straight(run, groups, 3, algorithm, momentum))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_clients_that_average_every_step_are_the_concatenated_batch(algorithm):
    """Law 2. Weights of clients that are the same in all batches of a step: batches of 4 and 2 samples.

    Σ wᵢ (θ − γ/k Σₘ gᵢₘ) = θ − γ/k Σₘ Σᵢ wᵢ gᵢₘ, which is the plain step on the concatenated batches m.
    """
    run, _ = accumulated(algorithm, 2, aggregate_every=1, parts=[[*range(8)], [8, 9]], batch_size=4)
    plain = network(norm=False)
    optimizer = momentum(plain.parameters())
    images, labels = data(10)
    for first in range(0, len(run.asks.steps), 2):
        optimizer.zero_grad()
        for step in run.asks.steps[first : first + 2]:
            batch = [index for indices in step.values() for index in indices]
            (cross_entropy(plain(images[batch]), labels[batch]) / 2).backward()
        optimizer.step()
    assert_close(run.weights, plain.state_dict())


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
@pytest.mark.parametrize("accumulates", [2, 3])
def test_what_crosses_is_the_gradient_of_each_batchs_own_mean_loss(algorithm, accumulates):
    """The first step's batches, of all clients: the initial weights' gradients, without weight and without 1/k."""
    run, _ = accumulated(algorithm, accumulates, steps=1)
    images, labels = data(sum(map(len, UNEVEN)))
    sent = {(m.client, m.step): m.tensors for m in run.log.messages(kinds=[MessageKind.CUT_GRADIENT])}
    assert sent.keys() == {(client, step) for client in range(3) for step in range(accumulates)}
    whole = network(norm=False)
    for (client, step), tensors in sent.items():
        indices = list(run.asks.steps[step][client])
        smashed = whole[:3](images[indices]).detach().requires_grad_()
        cross_entropy(whole[3:](smashed), labels[indices]).backward()
        torch.testing.assert_close(tensors["0"], smashed.grad, rtol=1e-12, atol=1e-15)


def test_layers_between_two_cuts_accumulate_the_gradient_of_each_clients_own_loss():
    """Clients cut at different places: between the cuts a client's own layers are computed on the server."""
    cuts = {0: "model.2", 1: "model.5", 2: "model.2"}
    ended = []
    for cut in (cuts, "model.5"):
        run, _ = accumulated("splitfed_shared", 2, cut=cut)
        ended.append(run.weights)
    assert_close(*ended)


def test_an_allocation_waits_for_the_next_round_and_that_for_whole_steps():
    """Asked for within the first round, of 2 steps of 2 and 1 batches: it takes effect at the fourth batch."""
    plan = {0: Allocation(cut=["model.5"] * 3, batch_size=[1, 1, 1])}
    run, _ = accumulated("splitfed_shared", 2, plan=plan)
    assert [cuts[0] for cuts in run.asks.cuts[:5]] == ["model.2", "model.2", "model.2", "model.5", "model.5"]
    assert [max(map(len, step.values())) for step in run.asks.steps[:5]] == [2, 2, 2, 1, 1]


class Saves(pl.Callback):
    """Saves after a batch of the run, and, if told so, ends the run there."""

    def __init__(self, path: Path | None = None, batch: int = -1) -> None:
        self.path, self.batch = path, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.step == self.batch:
            trainer.save_checkpoint(self.path)
            raise Stopped


class Net(Classifier):
    """Batch normalisation and dropout, in single precision."""

    def __init__(self, optimizer, seed=0) -> None:
        torch.manual_seed(seed)
        super().__init__(RESNET.make(), optimizer)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("batch", "workers"), [(0, 0), (1, 0), (3, 0), (6, 0), (5, 2)])
def test_a_run_goes_on_from_any_batch_of_a_step(algorithm, batch, workers, tmp_path):
    """Law 8: epochs of 4 batches, in steps of 3 and 1; rounds of 3 steps. What was added up is in the checkpoint."""

    def run(seed, callback, **options):
        cut = None if algorithm == "fedavg" else {0: "model.1", 1: "model.2"}
        strategy = SplitFederatedStrategy(cut=cut, algorithm=algorithm, num_clients=2, aggregate_every=3)
        module = Net(adamw_of_floats, seed)
        pl.seed_everything(seed + 1, verbose=False)
        trainer = quiet_trainer(strategy=strategy, callbacks=[callback], max_epochs=3, accumulate_grad_batches=3)
        with contextlib.suppress(Stopped):
            trainer.fit(module, RESNET.loader(14, 2, shuffle=True, num_workers=workers), weights_only=True, **options)
        return [dict(module.state_dict()), trainer.optimizers[0].state_dict()]

    whole = run(0, Saves())
    run(0, Saves(tmp_path / "saved.ckpt", batch))
    assert differences(whole, run(7, Saves(), ckpt_path=tmp_path / "saved.ckpt")) == []


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize(("before", "after"), [("model.1", "model.2"), ("model.2", "model.1")])
def test_at_another_cut_layers_that_changed_hands_lose_what_was_added_up(before, after, tmp_path):
    """Saved after the first batch of a step of 3. After the second, the server has its own layers' gradients alone."""
    shown: list[set[str]] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            shown.append({name for name, p in pl_module.named_parameters() if p.grad is not None})

    def run(cut, callback, **options):
        strategy = SplitFederatedStrategy(cut=cut, num_clients=2, aggregate_every=3)
        trainer = quiet_trainer(strategy=strategy, callbacks=[callback], max_epochs=1, accumulate_grad_batches=3)
        with contextlib.suppress(Stopped):
            trainer.fit(Net(sgd), RESNET.loader(14, 2), weights_only=True, **options)
        return strategy.splits[cut]

    run(before, Saves(tmp_path / "saved.ckpt", 0))
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["split_federated"]
    split = run(after, Look(), ckpt_path=tmp_path / "saved.ckpt")
    assert shown[0] == set(split.server_parameters)
    assert saved["server_gradients"].keys() != shown[0]


def test_a_checkpoint_of_another_accumulation_is_refused(tmp_path):
    for accumulates, path in ((2, None), (3, tmp_path / "saved.ckpt")):
        strategy = SplitFederatedStrategy(cut="model.1", num_clients=2)
        trainer = quiet_trainer(strategy=strategy, max_epochs=1, accumulate_grad_batches=accumulates)
        if path is None:
            trainer.fit(Net(sgd), RESNET.loader(8, 2))
            trainer.save_checkpoint(tmp_path / "saved.ckpt")
            continue
        with pytest.raises(MisconfigurationException, match="accumulate_grad_batches=2.*accumulate_grad_batches=3"):
            trainer.fit(Net(sgd), RESNET.loader(8, 2), ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("algorithm", sorted(set(ALL_ALGORITHMS) - set(ALGORITHMS)))
def test_clients_that_train_one_after_the_other_do_not_accumulate(algorithm):
    strategy = SplitFederatedStrategy(cut="model.1", num_clients=2, algorithm=algorithm)
    trainer = quiet_trainer(strategy=strategy, accumulate_grad_batches=2, max_epochs=1)
    with pytest.raises(
        MisconfigurationException, match=rf"accumulate_grad_batches=2\).*{algorithm}.*'splitfed_shared'"
    ):
        trainer.fit(Net(sgd), RESNET.loader(8, 2))


def test_hooks_run_and_gradients_are_clipped_once_per_party_and_step():
    """`on_after_backward` runs after every batch, as in plain Lightning, and shows what has been added up so far."""

    class Looks(Classifier):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, 4)), sgd)
            self.seen = []

        def look(self, what):
            named = self.named_parameters()
            self.seen.append((what, {name: p.grad.clone() for name, p in named if p.grad is not None}))

        def on_after_backward(self):
            self.look("backward")

        def on_before_optimizer_step(self, optimizer):
            self.look("step")

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            clipped = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.seen.append(("clip", torch.cat([gradient.flatten() for gradient in clipped]).norm()))

    for num_clients, parties in ((1, 2), (2, 3)):
        module = Looks()
        strategy = SplitFederatedStrategy(cut="model.1", num_clients=num_clients, partition="iid")
        loader = RESNET.loader(4 * num_clients, 2)
        fit(module, loader, strategy, max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=1e-3)
        kinds = [what for what, _ in module.seen]
        assert kinds == ["backward"] * parties * 2 + ["step", "clip"] * parties
        first, second = ([seen for _, seen in module.seen[at : at + parties]] for at in (0, parties))
        grown = [(one[name], two[name]) for one, two in zip(first, second, strict=True) for name in one]
        assert not any(torch.equal(one, two) for one, two in grown)
        shown, norms = module.seen[2 * parties :: 2], module.seen[2 * parties + 1 :: 2]
        assert all(same(seen, two) for (_, seen), two in zip(shown, second, strict=True))
        assert [float(norm) for _, norm in norms] == pytest.approx([1e-3] * parties, rel=1e-2)
