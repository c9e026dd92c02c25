"""The audit of U-shapes, where labels stay with the client: what crosses at both cuts, and what that gives away."""

import dataclasses

import pytest
import torch
from attack_cases import HandMadeLog, attacker_of, threat_model
from audited import ONE_ITERATION, TinyNet, Trained, train, without_times
from torch import nn
from torch.nn.functional import cross_entropy

from attacks import PrivacyAudit
from attacks.attacker import Attacker
from attacks.audit.run import audit, cuts_of, second_cut_of
from attacks.audit.settings import AuditSettings
from attacks.gradients.half import InvertingHalfGradients
from attacks.gradients.messages import half_targets
from attacks.program import Program
from attacks.threat import PRESETS
from lightning_sfl.cut.find import search
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import MessageKind
from lightning_sfl.report.leakage import Verdict

U_SHAPE = ("stem", "body")
TEMPLATE = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
AT_THE_END = (MessageKind.SERVER_OUTPUT, MessageKind.OUTPUT_GRADIENT)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(log=MessageLog(), steps=2, cut=U_SHAPE)


def program(module: nn.Module, last: str = "body") -> Program:
    return Program(module, search(module, TEMPLATE, last=last).cut("stem").split, TEMPLATE)


# Messages


def test_the_cuts_of_a_log_are_the_first_ones(trained):
    assert cuts_of(trained.log) == ["stem"]
    assert second_cut_of(trained.log) == "body"
    assert second_cut_of(train(log=MessageLog(), steps=1).log) is None


def test_no_label_crosses_and_the_report_says_who_computes_the_loss(trained):
    """What stands in the notes of a single cut, that labels cross in clear, must not stand here."""
    (found,) = trained.audit(AuditSettings(attacks=("gradient_norm",)))

    assert MessageKind.LABEL not in {message.kind for message in trained.log.messages()}
    assert found.notes == ("A U-shape: what is behind 'body' is the client's again, which computes the loss.",)


def test_what_crosses_at_the_second_cut_is_that_of_the_batches_at_the_first():
    """Two clients cut at different places, and both take over again at the head."""
    log = HandMadeLog()
    for client, cut in enumerate(("front", "middle")):
        log.add(MessageKind.SMASHED, {"0": torch.zeros(1)}, client=client, round=0, step=0, cut=cut)
        for kind in AT_THE_END:
            tensors = {"0": torch.tensor([float(client)])}
            log.add(kind, tensors, client=client, round=0, step=0, cut="head")

    for cut, client in (("front", 0), ("middle", 1)):
        attacker = attacker_of(log, threat_model(*AT_THE_END), cut=cut)
        for kind in AT_THE_END:
            assert [message.client for message in attacker.messages(kind)] == [client]
    assert list(attacker_of(log, threat_model(*AT_THE_END), cut="head").messages(AT_THE_END[0])) == []


def test_who_sees_the_first_cut_sees_the_second():
    for threat in PRESETS.values():
        assert set(AT_THE_END) <= threat.sees or not (set(AT_THE_END) | {MessageKind.CUT_GRADIENT}) & threat.sees


# The program


def test_the_private_input_of_the_first_part_is_the_image_alone():
    """Labels are private too, and the smashed data were made without them."""
    found = program(TinyNet())

    assert set(found.split.private) == {"0", "1"}
    assert found.private == ("0",)
    assert found.image_input(5)[1] == (5, 1, 8, 8)


def test_the_gradient_that_a_client_sends_back_is_made_again_of_what_it_was_given():
    """Of the client's second part alone: the head and the loss."""
    torch.manual_seed(0)
    model = TinyNet()
    given = torch.randn(3, 72, requires_grad=True)
    labels = torch.tensor([3, 1, 9])
    (expected,) = torch.autograd.grad(cross_entropy(model.head(given), labels), [given])
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("body")}

    (found,) = program(model).output_gradients(weights, [given.detach()], {"1": labels})

    torch.testing.assert_close(found, expected)


class Skipping(nn.Module):
    """The client's end reads the first part's second layer once more, past the server."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)
        self.stem = _Both()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(72, 10))
        self.head = nn.Linear(82, 10)
        self.own = nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        sent, kept = self.stem(self.early(images) * self.own, self.late)
        return cross_entropy(self.head(torch.cat([self.body(sent), kept.flatten(1)], dim=1)), labels)


class _Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.send, self.keep = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, given, late):
        return self.send(given), self.keep(late(given))


def test_only_weights_that_act_through_the_first_cut_are_told_by_the_cut_gradient():
    """Of Skipping, early and own act through both ways, late and keep past the server, send through the cut alone."""
    module = Skipping()
    names = [name for name, _ in module.named_parameters() if not name.startswith("body")]

    assert program(module).before_the_cut(names) == ("stem.send.weight", "stem.send.bias")
    tiny = program(TinyNet())
    assert tiny.before_the_cut(["stem.0.weight", "head.weight", "stem.1.bias"]) == ("stem.0.weight", "stem.1.bias")


def test_at_a_single_cut_all_of_a_clients_weights_act_through_it():
    model = TinyNet()
    split = search(model, TEMPLATE).cut("body").split

    assert Program(model, split, TEMPLATE).before_the_cut(split.client_parameters) == split.client_parameters


# Attacks


def test_images_come_back_at_the_first_cut_as_at_a_single_one(trained):
    cell = trained.cell()

    assert cell.cut == "stem"
    assert cell.verdict is Verdict.LEAKS
    assert cell.gain.low > 10
    assert cell.control.passed


def test_the_clients_update_is_matched_by_what_the_cut_gradient_explains(trained):
    """A client sends both its ends; with the true images the gradient is the one read, in float64, end left out."""
    background = trained.background(auxiliary=None)
    attacker = Attacker(trained.log, InvertingHalfGradients.needs, background, cut="stem", records=8)

    target = half_targets(attacker)[0]

    assert target.names == ("stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias")
    (sent,) = (m for m in trained.log.messages(kinds=[MessageKind.SMASHED], client=0) if m.step == target.update.round)
    images = trained.images[list(trained.log.truth()[sent.number].indices)]
    for made, read in zip(target.gradient_of(images, trained.labels[:8]), target.gradients, strict=True):
        if read.norm() > 1e-5:  # a bias before batch normalisation has none
            assert (made - read).norm() < 1e-3 * read.norm()


@pytest.mark.parametrize("name", ["shadow", "sdar"])
def test_attacks_that_need_the_servers_loss_say_that_there_is_none(trained, name):
    (found,) = trained.audit(AuditSettings(attacks=(name,)))

    assert "computes no loss in a U-shape" in found.not_run[0].reason


def test_the_second_part_gives_labels_away_exactly(trained):
    """Its weights are broadcast: nothing of what crossed is left unexplained by the classes that were found."""
    cell = trained.cell(AuditSettings(attacks=("every_class",), records=24))

    assert cell.value.mean == 1
    assert cell.value.records == 24
    assert cell.verdict is Verdict.LEAKS
    assert cell.parties == ("both servers", "malicious server")
    assert cell.budget.endswith("0.0e+00 of what crossed left unexplained")


def test_where_logits_are_what_the_server_gives_it_reads_every_label():
    """The last cut at the head: the client computes softmax and loss alone, and sends back softmax minus one-hot."""
    run = train(log=MessageLog(), steps=1, cut=("stem", "head"))

    cell = run.cell(AuditSettings(attacks=("logit_gradients",), records=24, threat="split_server"))

    assert cell.value.mean == 1
    assert cell.verdict is Verdict.LEAKS
    assert "split server" in cell.parties
    assert cell.knows == ()


def test_the_messages_of_other_algorithms_are_read_too():
    for algorithm in ("split_learning", "splitfed_v1", "splitfed_v2"):
        run = train(log=MessageLog(), steps=3, cut=U_SHAPE, algorithm=algorithm)
        cell = run.cell(AuditSettings(attacks=("every_class",), records=8))
        assert cell.value.mean == 1, algorithm


# The callback


def test_a_run_is_audited_while_it_trains_as_its_log_is_afterwards():
    log = MessageLog()
    callback = PrivacyAudit((*ONE_ITERATION.attacks, "gradient_direction", "every_class"), records=16)

    run = train(callback, log=log, steps=2, cut=U_SHAPE)

    settings = dataclasses.replace(ONE_ITERATION, attacks=callback.settings.attacks)
    assert without_times(callback.leakage[2]) == without_times(audit(log, run.background(), run.records, settings))
    assert [cell.attack for cell in callback.leakage[2][0].cells][1:] == ["gradient direction", "every class tried"]


def test_two_runs_with_one_cut_and_two_leave_the_same_smashed_data():
    """The first step's, before any weight moves: the first cut is the same place."""
    crossed = []
    for cut in ("stem", U_SHAPE):
        log = train(log=MessageLog(), steps=1, cut=cut).log
        crossed.append([m.tensors["0"] for m in log.messages(kinds=[MessageKind.SMASHED])])

    assert all(torch.equal(one, other) for one, other in zip(*crossed, strict=True))
