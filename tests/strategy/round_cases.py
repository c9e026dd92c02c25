"""Runs with cuts that differ and move and clients that are lost, and one straight-line loop that says how they end.

The loop is plain PyTorch and knows nothing of the library it judges. What lies before the deepest cut (in SplitFed-V1
and FedAvg: everything) is a participant's own, trained on its own mean loss, whichever side computes it; what lies
behind is one copy. That is the design's definition, written down once for all algorithms.
"""

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from sfl_models import Classifier, quiet_trainer
from straight_loops import FedServer, Job, Party, Step
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import MessageLog, SplitFederatedStrategy

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg")
SIZES = (8, 4, 6)
PARTS = [[*range(8)], [*range(8, 12)], [*range(12, 18)]]
Lost = set[tuple[int, str, int]]
"""(client, stage, step); the stage "skipped" leaves a client out of one step, and not of the rest of its round."""


def network(*, norm: bool = True) -> nn.Sequential:
    """In double precision; no bias stands before a norm, whose gradient would be rounding alone."""
    torch.manual_seed(0)

    def middle(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Linear(inside, outside, bias=not norm), nn.BatchNorm1d(outside) if norm else nn.Identity()]

    return nn.Sequential(
        *middle(6, 8), nn.Tanh(), *middle(8, 7), nn.Tanh(), *middle(7, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def data(count: int = sum(SIZES)) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(count)
    return torch.randn(count, 6, generator=draw, dtype=torch.float64), torch.randint(0, 3, (count,), generator=draw)


def descent(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def momentum(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


class Loses:
    """Loses whom it is told."""

    def __init__(self, lost: Lost) -> None:
        self.lost = lost
        self.rounds: dict[int, set[int]] = {}

    def is_lost(self, *, client: int, stage: str, round: int, step: int) -> bool:
        self.rounds.setdefault(step, set()).add(round)
        return (client, str(stage), step) in self.lost


class Asks(pl.Callback):
    """Notes what happens, and calls allocate() with what is planned for a step of the run (from 0), in one hook."""

    def __init__(self, plan: dict[int, Any] | None = None, hook: str = "on_train_batch_end") -> None:
        self.plan, self.hook = plan or {}, hook
        self.steps: list[Step] = []
        self.rounds: list[int] = []
        self.cuts: list[list[str]] = []
        self.losses: list[float] = []

    def ask(self, trainer, hook):
        if hook == self.hook and len(self.steps) - 1 in self.plan:
            trainer.strategy.allocate(self.plan[len(self.steps) - 1])

    def on_train_start(self, trainer, pl_module):
        self.ask(trainer, "on_train_start")

    def on_train_epoch_start(self, trainer, pl_module):
        self.ask(trainer, "on_train_epoch_start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(dict(batch.indices))
        self.rounds.append(batch.round)
        self.ask(trainer, "on_train_batch_start")

    def on_before_backward(self, trainer, pl_module, loss):
        self.ask(trainer, "on_before_backward")

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.ask(trainer, "on_before_zero_grad")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]) if outputs else float("nan"))
        self.cuts.append([trainer.strategy._rounds.cuts.of(client) for client in range(trainer.strategy.num_clients)])
        self.ask(trainer, "on_train_batch_end")

    def on_validation_end(self, trainer, pl_module):
        self.ask(trainer, "on_validation_end")

    def on_train_epoch_end(self, trainer, pl_module):
        self.ask(trainer, "on_train_epoch_end")


@dataclasses.dataclass
class Run:
    """A finished training."""

    module: Classifier
    asks: Asks
    log: MessageLog
    trainer: pl.Trainer

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.module.model.state_dict()


def train(
    cut="model.2",
    *,
    plan=None,
    hook="on_train_batch_end",
    steps=12,
    optimizer=momentum,
    norm=True,
    workers=0,
    parts=PARTS,
    batch_size=4,
    module=None,
    callbacks=(),
    trainer_options=None,
    val=False,
    ckpt_path=None,
    xy=None,
    shuffle=True,
    **options,
) -> Run:
    """Train by the strategy: three clients, rounds of three steps, every participant in each."""
    asks, log = Asks(plan, hook), MessageLog()
    if options.get("algorithm") == "fedavg":
        cut = None
    settings = {"aggregate_every": 3, "num_clients": len(parts), "partition": parts, **options}
    strategy = SplitFederatedStrategy(cut=cut, message_log=log, **settings)
    module = module or Classifier(network(norm=norm), optimizer, schedule=False)
    dataset = TensorDataset(*(xy or data(sum(map(len, parts)))))
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, num_workers=workers)
    pl.seed_everything(1, verbose=False)
    trainer = quiet_trainer(
        strategy=strategy,
        callbacks=[asks, *callbacks],
        max_epochs=-1,
        max_steps=steps,
        precision="64-true",
        **(trainer_options or {}),
    )
    validation = DataLoader(dataset, batch_size=9) if val else None
    trainer.fit(module, loader, validation, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return Run(module, asks, log, trainer)


def job(
    run: Run, optimizer, *, every=3, weighting="samples", state="average", per_round=3, parts=PARTS, xy=None
) -> Job:
    """What the straight loop is told of a run: nothing but the samples of each step."""
    images, labels = xy or data(sum(map(len, parts)))
    return Job(
        images=images,
        labels=labels,
        steps=run.asks.steps,
        held=[len(part) for part in parts],
        clients_per_round=per_round,
        every=every,
        optimizer=optimizer,
        weighting=weighting,
        state=state,
    )


def train_on(job: Job, parties: dict[int, Party], main: Party | None, step: Step, silent: set[int]) -> None:
    """One step of those who are there; the gradient does not come back to the silent."""
    shares = job.loss_shares(step)
    if main:
        main.optimizer.zero_grad()
    for client, indices in step.items():
        images, labels = job.batch(indices)
        hidden = parties[client].network(images)
        received = hidden.detach().requires_grad_()
        (cross_entropy(main.network(received) if main else received, labels) * shares[client]).backward()
        if client not in silent:
            parties[client].optimizer.zero_grad()
            hidden.backward(received.grad / shares[client])
            parties[client].optimizer.step()
    if main:
        main.optimizer.step()


def straight(
    job: Job,
    algorithm: str,
    *,
    own: int | list[int] = 3,
    lost: Lost = frozenset(),
    norm: bool = True,
    begin: nn.Sequential | None = None,
    train_on: Callable[[Job, dict[int, Party], Party | None, Step, set[int]], None] = train_on,
) -> dict[str, torch.Tensor]:
    """How a run ends.

    Args:
        job: The samples of each step, and the rules.
        algorithm: The algorithm.
        own: Layers before the deepest cut; of each round, where it moves. All of them where there is no common server.
        lost: Who is lost, when.
        norm: Whether the network has batch normalisation.
        begin: The network to begin from, if another.
        train_on: One step of those who are there, if another.
    """
    whole = begin or network(norm=norm)
    length = job.every * (job.clients_per_round if algorithm == "splitfed_v2" else 1)
    depths = [len(whole)] if algorithm in ("splitfed_v1", "fedavg") else own if isinstance(own, list) else [own]
    fed, main = FedServer(job, whole[: depths[0]]), common(job, whole[depths[0] :])
    first = 0
    for number, steps in enumerate(job.rounds(length)):
        fed, main = moved(job, fed, main, depths[min(number, len(depths) - 1)])
        parties = {client: fed.hand_out(client) for step in steps for client in step}
        gone, samples = set(), Counter()
        for place, step in enumerate(steps, start=first):
            left_out = {c for c, stage, at in lost if at == place and stage == "skipped"}
            early = {c for c, stage, at in lost if at == place and stage in ("before_forward", "after_forward")}
            gone |= early & set(step)  # nobody is asked of who has no batch in this step
            there = {client: indices for client, indices in step.items() if client not in gone | left_out}
            if there:
                silent = {c for c, stage, at in lost if at == place and stage == "before_gradient"}
                train_on(job, {c: parties[c] for c in there}, main, there, silent)
                samples.update({client: len(indices) for client, indices in there.items()})
                gone |= silent & set(there)
        first += len(steps)
        gone |= {c for c, stage, at in lost if at == first - 1 and stage == "before_upload"}
        here = {client: count for client, count in samples.items() if client not in gone}
        if here:
            fed.take_in({client: parties[client] for client in sorted(here)}, job.shares(here))
    return nn.Sequential(*fed.network, *(main.network if main else ())).state_dict()


def common(job: Job, layers: nn.Sequential, state: dict | None = None) -> Party | None:
    return Party(job, layers, state) if len(layers) else None


def moved(job: Job, fed: FedServer, main: Party | None, depth: int) -> tuple[FedServer, Party | None]:
    """Layers change hands between rounds, optimizer state with them."""
    if depth == len(fed.network):
        return fed, main
    assert main is not None
    whole = nn.Sequential(*fed.network, *main.network)
    before = len(list(fed.network.parameters()))
    states = fed.state | {before + number: state for number, state in main.state().items()}
    after = FedServer(job, whole[:depth])
    now = len(list(after.network.parameters()))
    after.state = copy.deepcopy({number: state for number, state in states.items() if number < now})
    return after, common(job, whole[depth:], {n - now: state for n, state in states.items() if n >= now})


def big_batch(steps: list[Step], network: nn.Sequential) -> dict[str, torch.Tensor]:
    """Plain gradient descent on all samples of a step together."""
    images, labels = data()
    optimizer = descent(network.parameters())
    for step in steps:
        batch = [index for indices in step.values() for index in indices]
        optimizer.zero_grad()
        cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network.state_dict()


def assert_close(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
