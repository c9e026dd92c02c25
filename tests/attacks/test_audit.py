import dataclasses
import math

import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog, TruthRead, noise_images, two_halves, weights_of
from audited import BATCH, CLIENTS, ONE_ITERATION, QUICK, Trained, train, without_times
from torch import nn

from attacks.attacker import Background, Records, UnavailableError
from attacks.audit.run import audit
from attacks.audit.settings import AuditSettings
from attacks.images import ImageSpace
from attacks.program import Program
from attacks.smashed.white_box import FAITHFUL, WhiteBox
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import Leakage, Verdict


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(log=MessageLog())


@pytest.fixture(scope="module")
def cell(trained: Trained) -> Leakage:
    return trained.cell()


def test_a_shallow_cut_of_a_trained_model_leaks(cell):
    assert cell.verdict is Verdict.LEAKS
    assert cell.gain.low > 10
    assert cell.others["SSIM"].mean > 0.8
    assert cell.fit < 0.01
    assert cell.share_recovered > 0.5
    assert cell.p_adjusted < 0.05


def test_one_iteration_is_too_weak_to_tell(trained):
    found = trained.cell(ONE_ITERATION)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.gain.low <= 0
    assert "does not beat" in found.reason


def test_a_control_stands_in_every_cell_and_fails_with_the_attack(trained, cell):
    """An orthogonal mixing of channels is undone in 150 iterations, and not in one."""
    assert cell.control.passed
    assert cell.control.value > 60
    weak = trained.cell(ONE_ITERATION)
    assert not weak.control.passed
    assert "fails where it must succeed" in weak.reason


def test_no_verdict_says_private():
    assert not [verdict for verdict in Verdict if "private" in verdict.value or "safe" in verdict.value]


def test_whole_batches_are_attacked_until_there_are_enough_records(trained, cell):
    def attacked(records: int) -> int:
        return trained.cell(dataclasses.replace(ONE_ITERATION, records=records)).value.records

    assert cell.value.records == 2 * BATCH
    assert cell.value.clients == 2
    assert [attacked(records) for records in (2, 17, 1000)] == [BATCH, 3 * BATCH, CLIENTS * BATCH]


def test_figures_of_one_cell_agree_with_each_other(cell):
    assert cell.gain.mean == pytest.approx(cell.value.mean - cell.best_guess.value.mean)
    assert cell.worst_record == max(picture.psnr_db for picture in cell.pictures)
    assert cell.worst_record > cell.value.mean
    for interval in (cell.value, cell.gain, *cell.others.values()):
        assert interval.low <= interval.mean <= interval.high


def test_the_cell_says_who_attacked_what_and_how(cell):
    assert cell.attack == WhiteBox.name
    assert cell.parties == ("both servers", "network observer", "malicious server")
    assert cell.sees == ("broadcast", "input", "label", "mask", "smashed")
    assert "client_weights" in cell.knows
    assert "150 iterations" in cell.budget
    assert "2 batches" in cell.budget
    victim = cell.victim
    assert (victim.round, victim.mode, victim.batch_norm, victim.dtype, victim.encoded, victim.batch_sizes) == (
        3,
        "training",
        "batch statistics",
        "float32",
        "none",
        (BATCH,),
    )
    assert 0 <= victim.repeated_labels <= 1


def test_pictures_show_the_worst_and_the_median_record_beside_their_originals(trained, cell):
    truths = [tuple((255 * image).round().int().flatten().tolist()) for image in trained.images]

    assert len(cell.pictures) == QUICK.pictures
    assert [picture.which for picture in cell.pictures[:2]] == ["worst", "median"]
    for picture in cell.pictures:
        shown = tuple(value for row in picture.original for pixel in row for value in pixel)
        rebuilt = [value for row in picture.reconstruction for pixel in row for value in pixel]
        error = sum((a - b) ** 2 for a, b in zip(shown, rebuilt, strict=True)) / len(shown)
        assert shown in truths
        assert error**0.5 == pytest.approx(255 * 10 ** (-picture.psnr_db / 20), abs=0.5)  # pixels are rounded


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_as_many_pictures_as_asked_for(trained, pictures):
    assert len(trained.cell(dataclasses.replace(ONE_ITERATION, pictures=pictures)).pictures) == pictures


@pytest.mark.slow
def test_an_audit_is_the_same_every_time_and_on_disk(trained, tmp_path):
    trained.log.save(tmp_path)

    found = [trained.audit(), trained.audit(), trained.audit(log=MessageLog.open(tmp_path))]

    assert without_times(found[0]) == without_times(found[1]) == without_times(found[2])


@pytest.mark.slow
def test_the_truth_only_scores(trained, cell):
    """With other records for truth, the attack rebuilds the same pictures and scores worse."""

    def other(indices: tuple[int, ...]) -> Records:
        return trained.records(tuple((index + 1) % trained.held for index in indices))

    ((found,),) = [at.cells for at in audit(trained.log, trained.background(), other, QUICK)]

    same = {picture.reconstruction for picture in found.pictures} & {p.reconstruction for p in cell.pictures}
    assert len(same) >= 3
    assert found.fit == cell.fit
    assert found.budget == cell.budget
    assert found.value.mean < cell.value.mean - 10
    assert found.verdict is Verdict.INCONCLUSIVE


class WatchedLog(MessageLog):
    """Notes how far the work was whenever the truth is read."""

    def __init__(self, progress: list[float]) -> None:
        super().__init__()
        self.progress = progress
        self.read_at: list[float] = []

    def truth(self):
        self.read_at.append(self.progress[-1] if self.progress else 0.0)
        return super().truth()


def test_the_truth_is_read_once_when_all_attacks_are_done(trained):
    progress: list[float] = []
    watched = WatchedLog(progress)
    truth = trained.log.truth()
    for message in trained.log.messages():
        watched.append(message, truth.get(message.number))

    trained.audit(ONE_ITERATION, log=watched, progress=progress.append)

    assert watched.read_at == [pytest.approx(1.0)]
    assert progress == sorted(progress)


def test_a_poisoned_truth_stops_an_audit_only_when_it_scores(trained):
    progress: list[float] = []
    poisoned = PoisonedLog()
    for message in trained.log.messages():
        poisoned.append(message)

    with pytest.raises(TruthRead):
        trained.audit(ONE_ITERATION, log=poisoned, progress=progress.append)

    assert progress[-1] == pytest.approx(1.0)


def test_auditing_leaves_the_model_and_the_random_state_as_they_were(trained):
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    state = torch.get_rng_state()

    trained.audit(ONE_ITERATION)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_the_gain_is_over_the_best_guess_that_does_not_know_the_truth(trained):
    """Digits are mostly dark, so their mean beats mid-grey; the nearest of 64 is better still, and is not counted."""
    found = trained.cell(ONE_ITERATION)
    blind = {guess.name: guess for guess in found.baselines}

    assert found.baseline == "mean of auxiliary images"
    assert blind["nearest auxiliary image"].uses_truth
    assert blind["nearest auxiliary image"].value.mean > found.best_guess.value.mean
    assert list(blind) == [
        "mid-grey",
        "the same attack on another client's messages",
        "mean of auxiliary images",
        "nearest auxiliary image",
    ]
    white = Records(images_BCHW=torch.ones(4, 1, 8, 8))
    assert trained.cell(ONE_ITERATION, auxiliary=white).baseline != "mean of auxiliary images"


def test_an_attack_that_needs_more_than_the_threat_model_grants_is_not_run(trained):
    settings = dataclasses.replace(ONE_ITERATION, threat="split_server")

    (found,) = trained.audit(settings)

    assert found.cells == ()
    (left_out,) = found.not_run
    assert left_out.attack == WhiteBox.name
    assert "broadcast, client_weights" in left_out.reason


def test_an_attack_whose_messages_are_not_in_the_log_is_not_run(trained):
    without = MessageLog()
    for message in trained.log.messages():
        if message.kind is not MessageKind.BROADCAST:
            without.append(message)

    (found,) = trained.audit(log=without)

    assert found.cells == ()
    assert "client_weights, which this audit was not given" in found.not_run[0].reason


def test_without_auxiliary_records_attacks_that_need_them_are_not_run(trained):
    (found,) = trained.audit(dataclasses.replace(QUICK, attacks=("decoder",)), auxiliary=None)

    assert "auxiliary_records" in found.not_run[0].reason


def test_a_log_without_messages_is_refused(trained):
    with pytest.raises(ValueError, match="no message"):
        trained.audit(log=MessageLog())


def test_a_cut_that_the_log_has_no_messages_of_is_refused_by_name(trained):
    with pytest.raises(ValueError, match="'body'.*'stem' only"):
        audit(trained.log, trained.background(), trained.records, QUICK, cuts=["body"])


def test_fewer_than_two_records_have_no_interval_and_no_verdict():
    trained = train(log=MessageLog(), batch=1, steps=1)

    found = trained.cell(dataclasses.replace(QUICK, records=1))

    assert found.value.records == 1
    assert found.value.low is None
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "no interval" in found.reason


def test_a_victim_with_weights_that_are_no_numbers_is_refused(trained):
    spoiled = MessageLog()
    for message in trained.log.messages():
        tensors = dict(message.tensors)
        if message.kind is MessageKind.BROADCAST:
            tensors["stem.0.weight"] = torch.full_like(tensors["stem.0.weight"], math.nan)
        spoiled.append(dataclasses.replace(message, tensors=tensors), trained.log.truth().get(message.number))

    with pytest.raises(ValueError, match=r"not all finite: 'stem\.0\.weight'"):
        trained.audit(log=spoiled)


def hand_made(front: nn.Module, smashed: torch.Tensor, images: torch.Tensor) -> Leakage:
    """The cell of a log that holds these smashed data of one client."""
    module = two_halves(front, images)
    template = (torch.zeros_like(images[:2]), torch.zeros(2, dtype=torch.int64))
    log = HandMadeLog()
    log.add(MessageKind.BROADCAST, weights_of(module), client=0, round=0, step=0)
    log.add(MessageKind.SMASHED, {"0": smashed}, client=0, round=0, step=0, indices=range(len(images)))
    background = Background(
        program=lambda cut: Program(module, search(module, template).cut("front").split, template),
        space=ImageSpace(shape_CHW=tuple(images.shape[1:])),
        auxiliary=Records(images_BCHW=images.flip(0)),
    )
    ((cell,),) = [
        at.cells
        for at in audit(log, background, lambda indices: Records(images_BCHW=images[list(indices)]), ONE_ITERATION)
    ]
    return cell


def test_a_client_that_sends_zeros_is_bounded_by_that():
    images = noise_images(4, channels=1)

    found = hand_made(nn.Conv2d(1, 2, 3), torch.zeros(4, 2, 6, 6), images)

    assert found.verdict is Verdict.BOUNDED
    assert "zero" in found.bound


def test_a_diverged_client_is_inconclusive_in_figures_that_can_be_reported():
    images = noise_images(4, channels=1)

    found = hand_made(nn.Conv2d(1, 2, 3), torch.full((4, 2, 6, 6), math.nan), images)

    assert all(math.isfinite(figure) for figure in (found.fit, found.value.mean, found.value.low, found.gain.high))
    assert found.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("records", 0, "records=0"),
        ("pictures", -1, "pictures=-1"),
        ("threat", "nobody", "threat='nobody'.*both_servers"),
        ("attacks", (), r"attacks=\(\)"),
        ("attacks", ("wite_box",), "attacks='wite_box'.*white_box"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value, said):
    with pytest.raises(ValueError, match=said):
        AuditSettings(**{argument: value})


def test_an_attack_that_reaches_for_more_than_it_declared_stops_the_audit(trained):
    """It is a defect of the attack, and its figures would be wrong: no cell, no 'not run'."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Greedy(WhiteBox):
        def run(self, attacker, progress):
            list(attacker.messages(MessageKind.CUT_GRADIENT))
            raise UnavailableError("never reached")

    with pytest.raises(ValueError, match="'cut_gradient'.*must declare"):
        trained.audit(dataclasses.replace(QUICK, attacks=(Greedy(candidates=(FAITHFUL,)),)))


def test_weights_of_another_model_are_refused_whichever_attack_is_named(trained):
    """Attacks on updates look for names that they know, and would find none: the log is looked at beforehand."""
    other = MessageLog()
    for message in trained.log.messages():
        tensors = {f"other.{name}": tensor for name, tensor in message.tensors.items()}
        is_weights = message.kind in (MessageKind.BROADCAST, MessageKind.CLIENT_UPDATE)
        other.append(dataclasses.replace(message, tensors=tensors if is_weights else message.tensors))

    with pytest.raises(ValueError, match=r"those of another model: 'other\.stem\.0\.weight'"):
        trained.audit(dataclasses.replace(QUICK, attacks=("label_counts",)), log=other)
