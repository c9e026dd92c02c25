import dataclasses
import math

import lightning.pytorch as pl
import pytest
import torch
from attack_cases import HandMadeLog, PoisonedLog, TruthRead, attackers_half, noise_images, two_halves, weights_of
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from attacks.activation_inversion import ActivationInversion
from attacks.audit import AuditSettings, audit
from attacks.baselines import no_leak_guesses
from attacks.client_half import ClientHalf
from lightning_sfl import SplitFederatedStrategy
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.report import Leakage, Verdict

BATCH, CLIENTS, STEPS = 8, 3, 4
FULL = AuditSettings(attack=ActivationInversion(iterations=150, total_variation_weights=(0.001, 0.05)), records=16)
ONE_ITERATION = AuditSettings(attack=dataclasses.replace(FULL.attack, iterations=1), records=16)


class TinyNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(72, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return cross_entropy(self.head(self.body(self.stem(images))), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model after some steps, its log, and the images: those of clients first, then those of nobody."""

    model: TinyNet
    log: MessageLog
    images: Tensor
    auxiliary: Tensor

    def client(self) -> ClientHalf:
        template = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
        return ClientHalf(self.model, search(self.model, template).cut("stem").split, template)

    def originals(self, indices: tuple[int, ...]) -> Tensor:
        return self.images[list(indices)]

    def audit(self, settings: AuditSettings = FULL, log: MessageLog | None = None) -> Leakage:
        return audit(log or self.log, self.client(), self.originals, self.auxiliary, settings)


@pytest.fixture(scope="module")
def trained() -> Trained:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    model, log = train(TensorDataset(images[:120], labels[:120]))
    return Trained(model, log, images[:120], images[120:184])


def train(records: TensorDataset) -> tuple[TinyNet, MessageLog]:
    pl.seed_everything(0, verbose=False)
    model, log = TinyNet(), MessageLog()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        strategy=SplitFederatedStrategy(cut="stem", num_clients=CLIENTS, message_log=log),
    )
    trainer.fit(model, DataLoader(records, batch_size=BATCH, shuffle=True))
    return model, log


@pytest.fixture(scope="module")
def leakage(trained: Trained) -> Leakage:
    return trained.audit()


def test_a_shallow_cut_of_a_trained_model_leaks(leakage):
    assert leakage.verdict is Verdict.LEAKS
    assert leakage.psnr_gain_db.low > 0
    assert leakage.psnr_db.mean > leakage.baseline_psnr_db.mean + 10
    assert leakage.ssim.mean > leakage.baseline_ssim.mean
    assert leakage.fit < 0.01


def test_one_iteration_is_too_weak_to_tell(trained):
    found = trained.audit(ONE_ITERATION)

    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.verdict.value == "inconclusive: the attack was too weak"
    assert found.psnr_gain_db.low <= 0


def test_no_verdict_says_private():
    assert [verdict.value for verdict in Verdict] == ["leaks", "inconclusive: the attack was too weak"]


def test_whole_batches_are_attacked_until_there_are_enough_records(trained, leakage):
    few = dataclasses.replace(ONE_ITERATION, records=2)
    one_more = dataclasses.replace(ONE_ITERATION, records=17)
    all_there_are = dataclasses.replace(ONE_ITERATION, records=1000)

    assert leakage.psnr_db.records == 2 * BATCH
    assert trained.audit(few).psnr_db.records == BATCH
    assert trained.audit(one_more).psnr_db.records == 3 * BATCH
    assert trained.audit(all_there_are).psnr_db.records == CLIENTS * BATCH


def test_figures_of_one_audit_agree_with_each_other(leakage):
    assert leakage.psnr_gain_db.mean == pytest.approx(leakage.psnr_db.mean - leakage.baseline_psnr_db.mean)
    assert leakage.worst_record_psnr_db >= max(picture.psnr_db for picture in leakage.pictures)
    assert leakage.worst_record_psnr_db > leakage.psnr_db.high
    for interval in (leakage.psnr_db, leakage.ssim, leakage.baseline_psnr_db, leakage.psnr_gain_db):
        assert interval.low < interval.mean < interval.high


def test_the_report_of_it_names_attack_threat_and_budget(leakage):
    assert leakage.attack == ActivationInversion.name
    assert leakage.threat == ActivationInversion.threat.description
    assert "150 iterations" in leakage.budget
    assert "2 batches" in leakage.budget
    assert "total variation 0.001" in leakage.budget or "total variation 0.05" in leakage.budget


def test_pictures_show_originals_beside_what_was_rebuilt(trained, leakage):
    truths = [tuple((255 * image).round().int().flatten().tolist()) for image in trained.images]

    assert len(leakage.pictures) == FULL.pictures
    for picture in leakage.pictures:
        shown = tuple(value for row in picture.original for pixel in row for value in pixel)
        rebuilt = [value for row in picture.reconstruction for pixel in row for value in pixel]
        error = sum((a - b) ** 2 for a, b in zip(shown, rebuilt, strict=True)) / len(shown)
        assert shown in truths
        assert error**0.5 == pytest.approx(255 * 10 ** (-picture.psnr_db / 20), abs=0.5)  # pixels are rounded


@pytest.mark.parametrize("pictures", [0, 3])
def test_as_many_pictures_as_asked_for(trained, pictures):
    found = trained.audit(dataclasses.replace(ONE_ITERATION, pictures=pictures))

    assert len(found.pictures) == pictures


def test_an_audit_is_the_same_every_time(trained, leakage):
    assert trained.audit() == leakage


def test_a_log_on_disk_gives_the_figures_of_the_run(trained, leakage, tmp_path):
    trained.log.save(tmp_path)

    assert trained.audit(log=MessageLog.open(tmp_path)) == leakage


def test_the_truth_only_scores(trained, leakage):
    """With other records for truth, the attack rebuilds the same pictures and scores worse."""

    def other(indices: tuple[int, ...]) -> Tensor:
        return trained.images[[(index + 1) % len(trained.images) for index in indices]]

    found = audit(trained.log, trained.client(), other, trained.auxiliary, FULL)

    assert [p.reconstruction for p in found.pictures] == [p.reconstruction for p in leakage.pictures]
    assert found.fit == leakage.fit
    assert found.budget == leakage.budget
    assert found.psnr_db.mean < leakage.psnr_db.mean - 10
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

    audit(watched, trained.client(), trained.originals, trained.auxiliary, ONE_ITERATION, progress.append)

    assert watched.read_at == [pytest.approx(1.0)]
    assert progress == sorted(progress)


def test_a_poisoned_truth_stops_an_audit_only_when_it_scores(trained):
    progress: list[float] = []
    poisoned = PoisonedLog()
    for message in trained.log.messages():
        poisoned.append(message)

    with pytest.raises(TruthRead):
        audit(poisoned, trained.client(), trained.originals, trained.auxiliary, ONE_ITERATION, progress.append)

    assert progress[-1] == pytest.approx(1.0)


def test_auditing_leaves_the_model_and_the_random_state_as_they_were(trained):
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    client = trained.client()
    state = torch.get_rng_state()

    audit(trained.log, client, trained.originals, trained.auxiliary, ONE_ITERATION)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_the_baseline_is_the_best_guess_without_messages(trained):
    """Digits are mostly dark, so their mean beats mid-grey; the mean of white images does not."""
    white = torch.ones_like(trained.auxiliary)

    by_mean = trained.audit(ONE_ITERATION)
    by_grey = audit(trained.log, trained.client(), trained.originals, white, ONE_ITERATION)
    without = audit(trained.log, trained.client(), trained.originals, None, ONE_ITERATION)

    assert by_mean.baseline == "mean of auxiliary images"
    assert by_grey.baseline == "mid-grey"
    assert without.baseline == "mid-grey"
    assert without.baseline_psnr_db == by_grey.baseline_psnr_db
    assert by_mean.baseline_psnr_db.mean > by_grey.baseline_psnr_db.mean


def test_no_leak_guesses_are_grey_and_the_mean_of_auxiliary_images():
    """Mid-range of −1 to 3 is 1; the mean of constant images 0 and 1 is 1/2."""
    auxiliary = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])

    guesses = no_leak_guesses(auxiliary, (3, 1, 2, 2), -1.0, 3.0)

    assert torch.equal(guesses["mid-grey"], torch.full((3, 1, 2, 2), 1.0))
    assert torch.equal(guesses["mean of auxiliary images"], torch.full((3, 1, 2, 2), 0.5))
    assert list(no_leak_guesses(None, (3, 1, 2, 2), 0.0, 1.0)) == ["mid-grey"]


@pytest.mark.parametrize("kinds", [(), (MessageKind.SMASHED,), (MessageKind.BROADCAST,)])
def test_a_log_with_nothing_to_attack_is_refused(trained, kinds):
    log = HandMadeLog()
    for kind in kinds:
        log.add(kind, {"0": torch.zeros(2, 4, 8, 8)}, client=0, round=0, step=0, indices=(0, 1))

    with pytest.raises(ValueError, match="no smashed data that follow a broadcast"):
        trained.audit(log=log)


class TokenNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 6)
        self.head = nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.head(self.embedding(batch["input_ids"]).mean(1)), batch["labels"])


def test_text_is_refused_clearly_before_the_truth_is_read():
    model = TokenNet()
    batch = {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "labels": torch.zeros(2, dtype=torch.int64)}
    log = PoisonedLog()
    log.add(MessageKind.BROADCAST, weights_of(model, "embedding."), client=0, round=0, step=0)
    log.add(MessageKind.SMASHED, {"0": torch.zeros(2, 5, 6)}, client=0, round=0, step=0, indices=(0, 1))
    client = ClientHalf(model, search(model, batch).cut("embedding").split, batch)

    def never(indices: tuple[int, ...]) -> Tensor:
        raise TruthRead

    with pytest.raises(ValueError, match=r"floating images.*'input_ids' \(2, 5\) torch.int64"):
        audit(log, client, never, None, FULL)


@pytest.mark.parametrize(("argument", "value"), [("records", 1), ("pictures", -1)])
def test_settings_out_of_range_are_refused_by_name_and_value(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        AuditSettings(**{argument: value})


@pytest.mark.parametrize("value", [0.0, float("nan")], ids=["dead", "diverged"])
def test_a_dead_or_diverged_client_is_inconclusive_in_figures_that_can_be_reported(value):
    images = noise_images(4, channels=1)
    module = two_halves(nn.Conv2d(1, 2, 3), images)
    log = HandMadeLog()
    log.add(MessageKind.BROADCAST, weights_of(module), client=0, round=0, step=0)
    smashed = {"0": torch.full((4, 2, 6, 6), value)}
    log.add(MessageKind.SMASHED, smashed, client=0, round=0, step=0, indices=range(4))

    found = audit(log, attackers_half(module, images), lambda indices: images[list(indices)], None, ONE_ITERATION)

    figures = [found.fit, *dataclasses.astuple(found.psnr_db), *dataclasses.astuple(found.ssim)]
    assert all(math.isfinite(figure) for figure in figures)
    assert found.verdict is Verdict.INCONCLUSIVE
