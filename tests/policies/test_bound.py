"""The bound's three terms by hand, and what of a model drifts."""

import dataclasses
import math

import lightning.pytorch as pl
import numpy as np
import pytest
from sfl_models import MLP, fit, sgd
from world_cases import hand_profile, numbers

from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.statistics import GradientStatistics, assumed

STATISTICS = GradientStatistics(smoothness=2.0, variance=6.0, second_moment=numbers(1, 2, 4), loss_gap=3.0)
BOUND = Bound(statistics=STATISTICS, learning_rate=0.1, interval=5, clients=2, target=20.0)


def test_the_terms_by_hand():
    """V = βγ/N² Σσ² (1/2 + 1/4) = .2/4 · 6 · .75 = .225. D = 4 (βγI)² G² = 4 · 1 · G². R = 2·3 / (.1 (20 - V - D))."""
    sizes = np.array([2, 4])
    assert BOUND.variance(sizes) == pytest.approx(0.225)
    assert BOUND.drift == pytest.approx([4, 8, 16])
    assert BOUND.steps(sizes, 1) == pytest.approx(60 / (20 - 0.225 - 8))
    assert dataclasses.replace(BOUND, target=8.2).steps(sizes, 1) == math.inf


def test_without_steps_between_averages_nothing_drifts():
    assert not dataclasses.replace(BOUND, interval=1).drift.any()


@pytest.mark.parametrize("field", ["smoothness", "variance", "loss_gap"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_constants_are_above_zero(field, value):
    with pytest.raises(ValueError, match=f"GradientStatistics\\({field}="):
        dataclasses.replace(STATISTICS, **{field: value})


def test_second_moments_are_numbers():
    with pytest.raises(ValueError, match="second_moment="):
        dataclasses.replace(STATISTICS, second_moment=numbers(1, -1))


def test_what_is_assumed_goes_by_parameters():
    """100, 400 and 900 of 1,000 parameters: that share of a squared gradient of 1."""
    found = assumed(hand_profile(), numbers(100, 400, 900))
    assert found.second_moment == pytest.approx([0.1, 0.4, 0.9])
    assert not found.is_measured


class Owners(pl.Callback):
    """Notes which layers would drift apart at every cut."""

    def __init__(self) -> None:
        self.found = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        strategy = trainer.strategy
        self.found = {cut: strategy.owned_at(cut) for cut in strategy.learn_cuts(["model.3", "model.1"])}


BEFORE = {"model.1": {"model.1"}, "model.3": {"model.1", "model.3"}}
NOTHING = {"model.1": set(), "model.3": set()}
EVERYTHING = {"model.1": {"model.1", "model.3", "model.5"}, "model.3": {"model.1", "model.3", "model.5"}}


@pytest.mark.parametrize(
    ("algorithm", "drifts"),
    [
        ("splitfed_shared", BEFORE),
        ("splitfed_v2", BEFORE),
        ("splitfed_v1", EVERYTHING),
        ("split_learning", NOTHING),
        ("ho_sfl", NOTHING),
    ],
)
def test_what_drifts_is_what_the_algorithm_averages_once_a_round(algorithm, drifts):
    """Replicas of the server drift whole; weights that are handed on, or are alike at any time, do not."""
    owners = Owners()
    strategy = SplitFederatedStrategy(cut="model.2", num_clients=4, algorithm=algorithm)
    fit(MLP.module(sgd), MLP.loader(32, 4), strategy, max_epochs=1, callbacks=[owners])

    assert list(owners.found) == ["model.1", "model.3"]
    assert {cut: {name.rpartition(".")[0] for name in names} for cut, names in owners.found.items()} == drifts
