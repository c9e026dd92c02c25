"""Updates of rounds of several steps, and what crosses in them besides weights, in the logs of real runs."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from attack_cases import attacker_of
from audited import CLIENTS, TinyNet, train
from torch import nn

from attacks.audit.settings import AuditSettings
from attacks.gradients.batch_norm import InvertingWithBatchStatistics
from attacks.gradients.half import InvertingHalfGradients
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.messages import half_targets, whole_model_targets
from attacks.gradients.victim import direction_distance
from attacks.local_optimizer import LocalOptimizer
from attacks.threat import COLLUDING_SERVERS, FED_SERVER
from lightning_sfl.link.log import MessageLog

OPTIMIZERS = {
    "SGD": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
}


class Smooth(TinyNet):
    """Without normalisation and rectifiers."""

    options: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.Tanh(), nn.Flatten())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, **self.options)


def run_of_rounds(monkeypatch, steps: int, batch: int, kind: str = "SGD", *, rounds: int = 1, **options):
    """Rounds of so many steps, and how clients step."""
    monkeypatch.setattr(Smooth, "options", OPTIMIZERS[kind])
    monkeypatch.setattr("audited.TinyNet", Smooth)
    run = train(log=MessageLog(), steps=steps * rounds, batch=batch, aggregate_every=steps, **options)
    keeps = options.get("client_optimizer_state") == "keep"
    return run, LocalOptimizer.of(run.model.configure_optimizers(), steps=steps, keeps_state=keeps)


FEDAVG = {"cut": None, "algorithm": "fedavg"}


def test_rounds_of_several_steps_are_unrolled(monkeypatch):
    """One record in each of two steps: both labels come back, and the images are on their way in 30 iterations."""
    run, optimizer = run_of_rounds(monkeypatch, 2, 1, **FEDAVG)
    settings = AuditSettings(
        attacks=("label_counts", InvertingGradients(iterations=30, total_variation_weights=(0.1,))), records=4
    )

    (found,) = run.audit(settings, optimizer=optimizer)

    labels, images = found.cells
    assert labels.value.mean == 1
    assert images.value.records == 4
    assert images.value.mean > images.best_guess.value.mean + 5


@pytest.mark.parametrize("kind", ["SGD", "momentum", "Nesterov"])
@pytest.mark.parametrize("options", [FEDAVG, {"cut": "body"}], ids=["whole", "half"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_the_true_images_explain_what_a_real_run_sent(monkeypatch, kind, options, rounds):
    """Law 7: those of each step in its place give the update, to rounding of 32 bits in θ′ − θ over η and the steps; in
    the reverse order of steps they do not. Of the second round too, which begins with momentum that was sent down."""
    run, optimizer = run_of_rounds(monkeypatch, 3, 2, kind, rounds=rounds, **options)
    cut = options["cut"]
    attacker = attacker_of(
        run.log, FED_SERVER if cut is None else COLLUDING_SERVERS, run.background(optimizer=optimizer), cut=cut
    )
    targets = whole_model_targets(attacker) if cut is None else half_targets(attacker)

    assert len(targets) == CLIENTS
    for target in targets:
        steps = run.log.worked_on(target.update.client, target.update.round)
        apart = []
        for places in (steps, steps[::-1]):
            true = run.records(tuple(index for step in places for index in step))
            with torch.no_grad():
                found = target.gradient_of(true.images_BCHW, true.labels_B)
            apart.append(float(direction_distance(found, target.gradients)))
        assert target.update.round == rounds - 1
        assert target.sizes == (2, 2, 2)
        assert apart[0] < 1e-4
        assert apart[1] > 1e-3


def test_half_models_are_unrolled_with_the_cut_gradients_of_every_step(monkeypatch):
    run, optimizer = run_of_rounds(monkeypatch, 2, 1, "momentum", cut="body")
    attack = InvertingHalfGradients(iterations=30, total_variation_weights=(0.1,))

    (found,) = run.audit(AuditSettings(attacks=(attack,), records=2), optimizer=optimizer)

    (cell,) = found.cells
    assert cell.value.records == 4
    assert cell.value.mean > cell.best_guess.value.mean + 3


@pytest.mark.parametrize("attack", ["inverting_gradients", "label_counts"])
def test_momentum_that_clients_keep_hides_the_steps_of_a_round(monkeypatch, attack):
    run, optimizer = run_of_rounds(monkeypatch, 2, 1, "momentum", client_optimizer_state="keep", **FEDAVG)

    (found,) = run.audit(AuditSettings(attacks=(attack,)), optimizer=optimizer)

    assert "no gradient can be read" in found.not_run[0].reason.lower()


@pytest.mark.parametrize(
    ("attack", "reason"),
    [("deep_leakage", "the gradient of one step"), ("learning_to_invert", "the gradient of one record")],
)
def test_attacks_on_one_gradient_say_so_where_rounds_have_several(monkeypatch, attack, reason):
    run, optimizer = run_of_rounds(monkeypatch, 2, 1, **FEDAVG)

    (found,) = run.audit(AuditSettings(attacks=(attack,)), optimizer=optimizer)

    assert reason in found.not_run[0].reason


def test_batches_that_one_step_accumulates_are_not_taken_for_its_only_one(monkeypatch):
    """Regression: of two batches in one step, the first one's size was taken for the step's."""
    run, optimizer = run_of_rounds(monkeypatch, 2, 1, **FEDAVG)

    (found,) = run.audit(AuditSettings(attacks=("label_counts",)), optimizer=dataclasses.replace(optimizer, steps=1))

    assert "where a step is one batch" in found.not_run[0].reason


def test_batch_statistics_cross_with_the_weights_of_models_that_keep_them(monkeypatch):
    run = train(log=MessageLog(), steps=1, batch=2, **FEDAVG)
    attack = InvertingWithBatchStatistics(iterations=40, total_variation_weights=(0.1,))
    (found,) = run.audit(AuditSettings(attacks=(attack,), records=2))
    (cell,) = found.cells

    assert "batch_statistics" in cell.knows
    assert cell.parties == ("fed server", "both servers", "malicious server")
    assert cell.control.passed
    run, optimizer = run_of_rounds(monkeypatch, 1, 1, **FEDAVG)
    (found,) = run.audit(AuditSettings(attacks=("inverting_with_batch_statistics",)), optimizer=optimizer)
    assert "No running statistics" in found.not_run[0].reason
