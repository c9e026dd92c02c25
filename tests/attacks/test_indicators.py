"""Metrics without an attack, from the log of a run."""

import dataclasses
import json
import math

import pytest
import torch
from attack_cases import HandMadeLog, background_of, noise_images, orthogonal_1x1, two_halves, weights_of
from audited import ONE_ITERATION, train
from torch import nn

from attacks.attacker import Records
from attacks.audit.run import audit
from attacks.audit.truth import Truth
from attacks.indicators import registry
from attacks.indicators.dependence import DEPENDENCE_NAME
from attacks.indicators.evidence import Evidence
from attacks.indicators.fisher import FISHER_NAME
from attacks.indicators.registry import indicators
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.json_file import to_json
from lightning_sfl.report.report import Report, leakage_row

IMAGES = noise_images(8)


def log_of(front: nn.Module, images=IMAGES, *, weights: bool = True, spoil=lambda sent: sent) -> HandMadeLog:
    """Two clients send half of the images each."""
    module, log = two_halves(front, images), HandMadeLog()
    half = len(images) // 2
    for client, part in enumerate(images.split(half)):
        if weights:
            log.add(MessageKind.BROADCAST, weights_of(module), client=client, round=0, step=0)
        with torch.no_grad():
            sent = {"0": spoil(front(part))}
        places = range(client * half, client * half + len(part))
        log.add(MessageKind.SMASHED, sent, client=client, round=0, step=0, indices=places)
    return log


def found(front: nn.Module, log: MessageLog | None = None, images=IMAGES) -> dict[str, float]:
    log = log or log_of(front, images)
    background = background_of(two_halves(front, images), images)
    truth = Truth(log, lambda indices: Records(images_BCHW=images[list(indices)]))
    return indicators(Evidence.of(log, background, truth, cut="front", records=100))


def test_an_orthogonal_half_keeps_all_distances_and_its_dfil_is_that_of_the_noise_alone():
    """JᵀJ = 1, so tr(JᵀJ)/d = 1 in every probe, and dFIL = 1/σ² with σ a tenth of
    the deviation of what crosses, over records."""
    front = orthogonal_1x1(3)
    with torch.no_grad():
        deviation = float(front(IMAGES).var(0, correction=0).mean().sqrt())

    values = found(front)

    assert list(values) == [FISHER_NAME, DEPENDENCE_NAME]
    assert values[FISHER_NAME] == pytest.approx(100 / deviation**2, rel=1e-4)
    assert values[DEPENDENCE_NAME] == pytest.approx(1, abs=1e-6)


def test_a_scaled_half_tells_as_much():
    """Ten times the smashed data have ten times the deviation: the noise that is supposed grows with them."""
    plain, scaled = orthogonal_1x1(3), orthogonal_1x1(3)
    scaled.weight.data *= 10

    assert found(scaled) == pytest.approx(found(plain), rel=1e-4)


def test_a_dead_half_has_no_dfil_and_depends_on_nothing():
    front = nn.Sequential(orthogonal_1x1(3), nn.Flatten(), nn.Linear(192, 2))
    front[2].weight.data.zero_()

    assert found(front) == {DEPENDENCE_NAME: 0.0}


def test_smashed_data_that_are_no_numbers_have_no_distance():
    front = orthogonal_1x1(3)

    values = found(front, log_of(front, spoil=lambda sent: torch.full_like(sent, math.nan)))

    assert list(values) == [FISHER_NAME]


def test_without_weights_what_crossed_is_still_compared():
    front = orthogonal_1x1(3)

    assert list(found(front, log_of(front, weights=False))) == [DEPENDENCE_NAME]


def test_fewer_than_four_records_are_too_few_for_distances():
    front = orthogonal_1x1(3)

    assert list(found(front, images=IMAGES[:2])) == [FISHER_NAME]


def test_a_cut_without_smashed_data_has_none():
    log = HandMadeLog()
    log.add(MessageKind.BROADCAST, {}, client=0, round=0, step=0)

    assert found(orthogonal_1x1(3), log) == {}


def test_the_audit_of_a_run_measures_every_cut_after_all_attacks(monkeypatch):
    """The quantiser, if any, is in what crossed; the deeper of two cuts of one net depends less on the records."""
    run = train(log=MessageLog(), steps=1)
    order: list[str] = []
    attack = ONE_ITERATION.attacks[0]
    original = type(attack).run
    monkeypatch.setattr(type(attack), "run", lambda self, *args: order.append("attack") or original(self, *args))
    watched = tuple(
        lambda evidence, each=each: order.append("indicator") or each(evidence) for each in registry.INDICATORS
    )
    monkeypatch.setattr(registry, "INDICATORS", watched)

    (at_cut,) = audit(run.log, run.background(), run.records, dataclasses.replace(ONE_ITERATION, pictures=0))

    assert set(at_cut.indicators) == {FISHER_NAME, DEPENDENCE_NAME}
    assert 0.5 < at_cut.indicators[DEPENDENCE_NAME] <= 1
    assert order == ["attack", "attack", *["indicator"] * len(watched)]  # the attack's second run is its control
    report = Report(title="", created="", metric="", settings={}, versions={}, rows=(leakage_row(at_cut),), notes=())
    assert json.loads(to_json(report))["cuts"][0]["leakage"]["indicators"] == at_cut.indicators
