"""Law 2: clients that aggregate every step are one big batch, for SGD."""

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import GPT2, MLP, adamw, fit
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import SplitFederatedStrategy

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "fedavg")


class Recorder(pl.Callback):
    """Notes which samples every step saw."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append([index for indices in batch.indices.values() for index in indices])


def plain_training(module, dataset, steps):
    """Training on the concatenated batches, without Lightning."""
    optimizer = module.make_optimizer(module.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    for epoch in steps:
        for indices in epoch:
            images = torch.stack([dataset[i][0] for i in indices]).double()
            labels = torch.stack([dataset[i][1] for i in indices])
            optimizer.zero_grad()
            cross_entropy(module.model(images), labels).backward()
            optimizer.step()
        schedule.step()
    return module


def split_and_plain(sizes, batch_size, algorithm, cut, optimizer, weighting="samples"):
    """Train by clients of these sizes, and on what they saw together; returns both modules, in double precision."""
    total, start, parts = sum(sizes), 0, []
    for size in sizes:
        parts.append(list(range(start, start + size)))
        start += size
    recorder = Recorder()
    strategy = SplitFederatedStrategy(
        cut=None if algorithm == "fedavg" else cut,
        num_clients=len(sizes),
        algorithm=algorithm,
        partition=parts,
        batch_size=batch_size,
        weighting=weighting,
    )
    split = MLP.module(optimizer)
    trainer = fit(
        split, MLP.loader(total, 2, shuffle=True), strategy, callbacks=[recorder], max_epochs=2, precision="64-true"
    )
    per_epoch = trainer.num_training_batches
    steps = [recorder.steps[:per_epoch], recorder.steps[per_epoch:]]
    plain = plain_training(MLP.module(optimizer).double(), MLP.dataset(total), steps)
    return split, plain


def plain_sgd(momentum, weight_decay):
    return lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=momentum, weight_decay=weight_decay)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    batch_size=st.integers(1, 5),
    algorithm=st.sampled_from(ALGORITHMS),
    cut=st.sampled_from(MLP.cuts),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-2]),
)
def test_clients_of_any_sizes_equal_the_concatenated_batch(sizes, batch_size, algorithm, cut, momentum, weight_decay):
    """The gradient of the big batch's mean loss is the sample-weighted mean of the clients' gradients.

    With client weights w_i = n_i / Σn: Σ w_i (θ − γ g_i) = θ − γ Σ w_i g_i, and Σ w_i g_i is the gradient of the mean
    over all samples; momentum and weight decay are linear in gradient and weights, so they commute with the mean.
    """
    split, plain = split_and_plain(sizes, batch_size, algorithm, cut, plain_sgd(momentum, weight_decay))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)


def test_it_does_not_hold_for_adamw():
    """AdamW divides by a root of the squared gradient: the mean of the steps is not the step of the mean."""
    split, plain = split_and_plain([5, 3], 4, "splitfed_v1", MLP.cuts[1], adamw)
    assert not all(torch.allclose(split.state_dict()[k], v, rtol=1e-6) for k, v in plain.state_dict().items())


@pytest.mark.parametrize("weighting", ["data", "uniform"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_weightings_are_the_big_batch_only_if_they_weigh_as_the_batches_do(algorithm, weighting):
    """Three clients of 4 samples and batches of 2 weigh a third by any rule.

    Clients of 6 and 2 samples with batches of 2 weigh a half each by their samples of a step, and under "uniform", but
    3/4 and 1/4 by their data; with batches of 6 and 2, 3/4 and 1/4 by samples and data, and a half under "uniform".
    """
    for sizes, batch_size, holds in (
        ([4, 4, 4], 2, True),
        ([6, 2], 2, weighting == "uniform"),
        ([6, 2], 6, weighting == "data"),
    ):
        split, plain = split_and_plain(sizes, batch_size, algorithm, MLP.cuts[1], plain_sgd(0.9, 0.0), weighting)
        pairs = [(split.state_dict()[name], tensor) for name, tensor in plain.state_dict().items()]
        assert all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in pairs) == holds


def test_language_model_clients_equal_the_concatenated_batch_with_a_loss_per_sample():
    """Sequences of one length, so that the mean over tokens is a mean over samples."""

    class Fixed(GPT2.wrapper):
        def training_step(self, batch, batch_idx):
            ids = batch
            logits = self.model(input_ids=ids).logits
            return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    draw = torch.Generator().manual_seed(0)
    data = torch.randint(0, 32, (12, 6), generator=draw)

    def module() -> pl.LightningModule:
        torch.manual_seed(0)
        made = Fixed(GPT2.make(), plain_sgd(0.9, 1e-3), schedule=False)
        for part in made.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        return made

    recorder, split = Recorder(), module()
    strategy = SplitFederatedStrategy(
        cut="model.transformer.h.0", num_clients=3, partition="iid", server_inputs=("batch",), batch_size=2
    )
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    fit(split, loader, strategy, callbacks=[recorder], max_epochs=2, precision="64-true")
    plain = module().double()
    optimizer = plain.make_optimizer(plain.parameters())
    for indices in recorder.steps:
        optimizer.zero_grad()
        plain.training_step(data[indices], 0).backward()
        optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, rtol=1e-8, atol=1e-11)
