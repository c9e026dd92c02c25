"""The strategy against straight-line loops from the papers, given nothing but the samples of each step."""

import copy
import dataclasses

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import Classifier, fit
from straight_loops import LOOPS, Fault, Job, Step
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sfl import SplitFederatedStrategy

CUTS = (0, 1, 2, 4, 6)
WEIGHTINGS = ("samples", "data", "uniform")
STATES = ("average", "reset", "keep")
STEPS = {"splitfed_shared": 8, "splitfed_v1": 8, "splitfed_v2": 18, "split_learning": 18, "fedavg": 8}


def layers() -> nn.Sequential:
    """A network in double precision with batch normalisation on both sides of most cuts.

    No bias stands before a norm: its gradient is zero, rounding aside, and AdamW would step on the rounding.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()


def samples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(count)
    images = torch.rand(count, 2, 4, 4, generator=draw, dtype=torch.float64)
    return images, torch.randint(0, 3, (count,), generator=draw)


def momentum(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


class Recorder(pl.Callback):
    """Notes what the loader delivered."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(dict(batch.indices))


def deal(sizes: list[int]) -> list[list[int]]:
    """Neighbouring samples to every client."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def train(
    algorithm,
    *,
    sizes=(8, 3, 5, 2),
    clients_per_round=3,
    every=2,
    cut=2,
    batch_size=3,
    steps=None,
    optimizer=momentum,
    weighting="samples",
    state="average",
):
    """Train by the strategy.

    Returns:
        The weights and buffers found, the job as the straight loops take it, and the two halves to begin from.
    """
    network, recorder, steps = layers(), Recorder(), steps or STEPS[algorithm]
    strategy = SplitFederatedStrategy(
        cut=None if algorithm == "fedavg" else f"model.{cut}",
        num_clients=len(sizes),
        algorithm=algorithm,
        partition=deal(sizes),
        aggregate_every=every,
        clients_per_round=clients_per_round,
        weighting=weighting,
        client_optimizer_state=state,
    )
    images, labels = samples(sum(sizes))
    module = Classifier(copy.deepcopy(network), optimizer, schedule=False)
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True)
    fit(module, loader, strategy, callbacks=[recorder], max_epochs=-1, max_steps=steps, precision="64-true")
    assert len(recorder.steps) == steps
    job = Job(
        images=images,
        labels=labels,
        steps=recorder.steps,
        held=list(sizes),
        clients_per_round=clients_per_round,
        every=every,
        optimizer=optimizer,
        weighting=weighting,
        state=state,
    )
    return module.model.state_dict(), job, (network[: cut + 1], network[cut + 1 :])


def assert_equal_to_rounding(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def furthest(one, other):
    """The largest difference between two models' weights."""
    names = [name for name in one if one[name].is_floating_point() and "running" not in name]
    return max(float((one[name] - other[name]).abs().max()) for name in names)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", LOOPS)
def test_the_strategy_is_the_papers_loop(algorithm, optimizer, state):
    """Three of four unequal clients per round, short batches among theirs, for four rounds of two steps of each.

    One after the other, a step is one client's: three rounds of 3 · 2 in SplitFed-V2, nine turns in split learning.
    Weightings take turns, so that each comes with every algorithm and either optimizer.
    """
    weighting = WEIGHTINGS[(STATES.index(state) + (optimizer is adamw)) % 3]
    found, job, halves = train(algorithm, optimizer=optimizer, state=state, weighting=weighting)
    assert_equal_to_rounding(found, LOOPS[algorithm](job, *halves))


@pytest.mark.parametrize("algorithm", LOOPS)
@settings(max_examples=6)
@given(draw=st.data())
def test_the_strategy_is_the_papers_loop_for_clients_rounds_and_cuts_as_they_come(algorithm, draw):
    """A fit may end within a round: the global model is then the mean of those who have taken part in it."""
    sizes = draw.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5), "sizes")
    options = {
        "sizes": sizes,
        "clients_per_round": draw.draw(st.integers(1, len(sizes)), "clients_per_round"),
        "every": draw.draw(st.integers(1, 4), "every"),
        "cut": draw.draw(st.sampled_from(CUTS), "cut"),
        "batch_size": draw.draw(st.integers(1, 4), "batch_size"),
        "steps": draw.draw(st.integers(1, 16), "steps"),
        "optimizer": draw.draw(st.sampled_from([momentum, adamw]), "optimizer"),
        "weighting": draw.draw(st.sampled_from(WEIGHTINGS), "weighting"),
        "state": draw.draw(st.sampled_from(STATES), "state"),
    }
    found, job, halves = train(algorithm, **options)
    assert_equal_to_rounding(found, LOOPS[algorithm](job, *halves))


# What the SplitFed authors' released code does otherwise than their paper


def assert_free_of(fault, algorithm, **options):
    """The strategy is the loop as it should be, and the loop with the fault is something else."""
    found, job, halves = train(algorithm, **options)
    assert_equal_to_rounding(found, LOOPS[algorithm](job, *halves))
    faulty = LOOPS[algorithm](dataclasses.replace(job, fault=fault), *halves)
    assert furthest(found, faulty) > 1e-3  # weights are of the order 0.1, and one step moves them by 0.01
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_to_rounding(found, faulty)


@pytest.mark.parametrize("optimizer", [momentum, adamw])
@pytest.mark.parametrize("algorithm", ["splitfed_v1", "splitfed_v2", "split_learning"])
def test_the_servers_moments_live_on_from_batch_to_batch_and_from_client_to_client(algorithm, optimizer):
    assert_free_of(Fault.SERVER_OPTIMIZER_PER_BATCH, algorithm, optimizer=optimizer)


def test_a_fresh_server_optimizer_per_batch_is_no_fault_of_plain_gradient_descent():
    """Which has no moments: it is they that tell the loop with the fault from the loop without it."""

    def descent(parameters):
        return torch.optim.SGD(parameters, lr=0.05)

    found, job, halves = train("splitfed_v2", optimizer=descent)
    faulty = dataclasses.replace(job, fault=Fault.SERVER_OPTIMIZER_PER_BATCH)
    assert_equal_to_rounding(found, LOOPS["splitfed_v2"](faulty, *halves))


@pytest.mark.parametrize("state", STATES)
def test_server_replicas_are_averaged_every_round_whoever_takes_part(state):
    assert_free_of(Fault.LATE_SERVER_MEAN, "splitfed_v1", state=state)


def test_averaging_when_everybody_has_been_there_is_no_fault_if_everybody_always_is():
    found, job, halves = train("splitfed_v1", clients_per_round=4)
    faulty = dataclasses.replace(job, fault=Fault.LATE_SERVER_MEAN)
    assert_equal_to_rounding(found, LOOPS["splitfed_v1"](faulty, *halves))


@pytest.mark.parametrize("weighting", ["samples", "data"])
@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1", "splitfed_v2", "fedavg"])
def test_the_mean_of_the_clients_is_weighted(algorithm, weighting):
    assert_free_of(Fault.UNWEIGHTED_MEAN, algorithm, weighting=weighting)


def test_the_unweighted_mean_is_no_fault_of_equal_clients():
    found, job, halves = train("splitfed_v1", sizes=(6, 6, 6), batch_size=3)
    faulty = dataclasses.replace(job, fault=Fault.UNWEIGHTED_MEAN)
    assert_equal_to_rounding(found, LOOPS["splitfed_v1"](faulty, *halves))
