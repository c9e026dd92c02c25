"""Every attack that can be named, on the log of a real run: it needs what it declares, and finds what it must."""

import dataclasses

import pytest
import torch
from audited import TinyNet, train
from torch import nn

from attacks import PrivacyAudit
from attacks.audit.run import WHOLE_MODEL
from attacks.audit.settings import AuditSettings
from attacks.gradients.batch_norm import InvertingWithBatchStatistics
from attacks.gradients.dlg import DeepLeakage
from attacks.gradients.half import InvertingHalfGradients
from attacks.gradients.inverting import InvertingGradients
from attacks.gradients.learned import LearningToInvert
from attacks.registry import ATTACKS, DEFAULT, make_attack
from attacks.smashed.decoder import Decoder
from attacks.smashed.sdar import Sdar
from attacks.smashed.shadow import Shadow
from attacks.smashed.unsplit import UnSplit
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from attacks.threat import PRESETS, who_could
from lightning_sfl.link.codecs import NearestUniform, StochasticUniform
from lightning_sfl.link.log import MessageLog
from lightning_sfl.report.leakage import Leakage, Verdict

AT_A_CUT = (
    WhiteBox(iterations=20, candidates=(FAITHFUL,)),
    Decoder(steps=10, batch=8, width=8),
    UnSplit(rounds=1, image_steps=2, weight_steps=2),
    Shadow(steps=3, batch=8, inversion=WhiteBox(iterations=3, candidates=(FAITHFUL,))),
    Sdar(steps=3, batch=8, width=8),
    InvertingHalfGradients(iterations=5, tuning_iterations=2),
)
OF_WHOLE_MODELS = (
    InvertingGradients(iterations=5, tuning_iterations=2),
    DeepLeakage(iterations=2, inner_iterations=2, starts=1),
    LearningToInvert(features=64, width=16, iterations=5),
    InvertingWithBatchStatistics(iterations=5, tuning_iterations=2),
)


@pytest.fixture(scope="module")
def split_run():
    return train(log=MessageLog(), steps=2)


@pytest.fixture(scope="module")
def fedavg_run():
    return train(log=MessageLog(), steps=2, batch=1, cut=None, algorithm="fedavg")


def only_cell(run, attack) -> Leakage:
    (found,) = run.audit(AuditSettings(attacks=(attack,), records=2, pictures=1))
    assert found.not_run == ()
    (cell,) = found.cells
    return cell


@pytest.mark.parametrize("attack", AT_A_CUT, ids=lambda attack: attack.name)
def test_attacks_at_a_cut_read_the_log_of_a_run(split_run, attack):
    cell = only_cell(split_run, attack)

    assert cell.cut == "stem"
    assert cell.value.records == 8
    assert cell.control is not None
    assert cell.budget


@pytest.mark.parametrize("attack", OF_WHOLE_MODELS, ids=lambda attack: attack.name)
def test_attacks_on_whole_models_read_the_log_of_a_run(fedavg_run, attack):
    cell = only_cell(fedavg_run, attack)

    assert cell.cut == WHOLE_MODEL
    assert cell.value.records == 2
    assert cell.control is not None


def test_labels_of_single_records_come_back_exactly(fedavg_run):
    cell = only_cell(fedavg_run, make_attack("label_counts"))

    assert cell.recovers == "labels"
    assert cell.value.mean == 1
    assert cell.control.value == 1


def test_every_attack_declares_what_some_party_has():
    for name in ATTACKS:
        assert who_could(make_attack(name).needs), name
        assert make_attack(name).budget


def test_the_default_attacks_can_be_named_and_need_nobody_to_deviate():
    assert set(DEFAULT) <= set(ATTACKS)
    assert not any(PRESETS["both_servers"].lacks(make_attack(name).needs) for name in DEFAULT)


@pytest.mark.parametrize("name", ["inverting_gradients", "deep_leakage", "learning_to_invert", "label_counts"])
def test_attacks_on_whole_models_say_so_where_clients_hold_a_half(split_run, name):
    (found,) = split_run.audit(AuditSettings(attacks=(name,), records=2))

    assert found.cells == ()
    assert "hold only a part of the model" in found.not_run[0].reason


def test_a_fully_connected_first_layer_gives_single_records_away_exactly(monkeypatch):
    """Geiping et al. 2020, proposition 3.1, from the log of a run: no iteration, 100 dB but for float32 in between."""

    class Flat(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
            self.body = nn.Sequential(nn.Linear(32, 16), nn.ReLU())
            self.head = nn.Linear(16, 10)

    monkeypatch.setattr("audited.TinyNet", Flat)
    run = train(log=MessageLog(), steps=2, batch=1)

    cell = only_cell(run, make_attack("first_layer_inputs"))

    assert cell.value.mean > 90
    assert cell.worst_record > 90


def test_quantised_smashed_data_of_a_linear_half_come_back_at_8_bits_and_not_at_2(monkeypatch):
    """SFLAM's cut behind a linear embedding: least squares undo 256 levels, of 4 levels too little is left.

    At b bits a number is off by at most half a step of 1/(2^b - 1) of its range: 54 dB of range to error at 8 bits and
    16 at 2 (uniform errors: 10·log10(12·(2^b - 1)²) is 59 and 20), which an invertible map hands on to the image up to
    its condition.
    """

    class Embedded(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 2, stride=2)  # patches of 2x2 to 4 numbers: square, invertible
            self.body = nn.Flatten()
            self.head = nn.Linear(64, 10)

    monkeypatch.setattr("audited.TinyNet", Embedded)
    values = {}
    for bits in (8, 2):
        run = train(log=MessageLog(), steps=1, codecs=[StochasticUniform(bits=bits)])
        cell = only_cell(run, make_attack("least_squares"))
        values[bits] = cell
        assert cell.victim.encoded.startswith("StochasticUniform")

    assert values[8].value.mean > 30
    assert values[8].verdict is Verdict.LEAKS
    assert values[2].value.mean < 12
    assert values[2].share_recovered == 0


def test_a_decoder_trains_through_the_quantiser():
    """What it is shown has 2 bits, as what it attacks: queries go through the codec that the message went through."""
    run = train(log=MessageLog(), steps=1, codecs=[NearestUniform(bits=2)])
    seen = []

    class Watched(Decoder):
        def trained(self, auxiliary_BCHW, query, space, progress):
            seen.append(query(space.to_input(auxiliary_BCHW[:4]))[0])
            return super().trained(auxiliary_BCHW, query, space, progress)

    only_cell(run, Watched(steps=2, batch=4, width=4))

    assert seen[0].unique().numel() <= 4
    assert torch.isfinite(seen[0]).all()


def test_clients_that_are_sent_no_weights_are_attacked_with_those_at_hand():
    """Under HO-SFL nobody broadcasts: the smashed data of the newest step go with the weights before that step, and
    batch normalisation with its running statistics."""
    callback = PrivacyAudit((WhiteBox(iterations=100, candidates=(FAITHFUL,)),), records=8)
    run = dataclasses.replace(train(callback, log=MessageLog(), steps=2, algorithm="ho_sfl"), fixed_norms=True)

    (found,) = run.audit(AuditSettings(attacks=("white_box",), records=8))
    assert "client_weights, which this audit was not given" in found.not_run[0].reason

    ((live,),) = callback.leakage.values()
    assert live.cells[0].value.mean > 30
    assert live.cells[0].victim.batch_norm == "running statistics"
