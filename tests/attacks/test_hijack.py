"""Feature-space hijacking: what the critic and the answers are, and that clients end up sending what can be read."""

import math

import pytest
import torch
from malicious_cases import digits_run, malicious

from attacks.audit.settings import AuditSettings
from attacks.images import ImageSpace
from attacks.malicious.hijack import FeatureSpaceHijack, HijackDecoder, ScaledCritic, length_of
from attacks.registry import ATTACKS, DEFAULT
from attacks.session import Sent, Session
from attacks.smashed.messages import program_of
from attacks.smashed.networks import InverseNetwork
from lightning_sfl.report.leakage import Verdict

QUICK = FeatureSpaceHijack(steps=4, pilot_steps=1, batch=8, width=4)


class Summed(torch.nn.Module):
    """A critic whose verdict is the sum of all numbers of a record."""

    def forward(self, given, labels_B):
        return given.flatten(1).sum(1, keepdim=True)


def test_it_is_run_for_a_malicious_server_only_and_only_by_name():
    run = digits_run(steps=1)
    assert ATTACKS["feature_space_hijack"] is FeatureSpaceHijack
    assert "feature_space_hijack" not in DEFAULT

    (honest,) = run.audit(AuditSettings(attacks=(QUICK,), records=24))
    assert honest.cells == ()
    assert "deviating from the protocol" in honest.not_run[0].reason

    (found,) = run.audit(AuditSettings(attacks=(QUICK,), threat="malicious_server", records=24, pictures=1))
    (cell,) = found.cells
    assert cell.parties == ("malicious server",)
    assert cell.value.records == 24
    assert cell.control is not None
    assert "SplitGuard would have warned" in cell.budget
    assert "Gradients Scrutinizer would have warned" in cell.budget


def test_the_gradient_penalty_counts_all_numbers_of_a_record():
    """The slope of a sum is 1 everywhere, so its norm over 3 channels of 2x2 is √12 and the penalty (√12 - 1)². (The
    authors' code sums over height and width alone, where it would be (2 - 1)².) Pilot and clients are the same, and
    cancel."""
    features = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    judge = ScaledCritic(Summed(), features)

    found = judge.distance(features, features, 10.0, torch.Generator().manual_seed(1))

    assert float(found) == pytest.approx(10 * (math.sqrt(12) - 1) ** 2, rel=1e-4)


def test_the_critic_is_to_call_clients_high_and_answers_lead_down():
    """Clients are the pilot's features plus 1, the spread is s, a record has 12 numbers: the distance is -12/s, and
    the gradient of the mean verdict of 4 records is 1/(4s) everywhere, at any scale of the features."""
    features = 7 * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    judge = ScaledCritic(Summed(), features)
    spread = (features - features.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()

    distance = judge.distance(features, features + 1, 0.0, torch.Generator().manual_seed(1))
    (answer,) = judge.towards_pilot((features + 1,))

    assert float(distance) == pytest.approx(-12 / float(spread), rel=1e-4)
    torch.testing.assert_close(answer, torch.full_like(features, 1 / (4 * float(spread))))


def listening(smashed: torch.Tensor) -> tuple[Session, list[torch.Tensor]]:
    """Clients that always send this, and what they were answered."""
    answers: list[torch.Tensor] = []
    session = Session(
        send=lambda: Sent(client=0, smashed=(smashed,), known={}),
        answer=lambda gradients: answers.extend(gradients),
        replay=lambda number: (smashed,),
        noticed=lambda: "",
    )
    return session, answers


def hijacked(session: Session) -> HijackDecoder:
    attacker = malicious(digits_run(steps=1))
    return QUICK.hijacked(
        session,
        attacker.auxiliary.images_BCHW,
        program_of(attacker),
        attacker.program.drawn_weights(0),
        attacker.space,
        2.0,
    )


def test_answers_have_the_length_that_is_given_and_fall_to_nothing_by_a_cosine():
    """Of 4 answers of at most 2: 2·(1 + cos(πk/4))/2 = 1 + cos(πk/4) for k = 0, 1, 2, 3. In 16 bits as sent."""
    sent = torch.rand(8, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    session, answers = listening(sent)

    hijacked(session)

    assert all(answer.dtype == torch.float16 for answer in answers)
    assert [length_of((answer,)) for answer in answers] == pytest.approx(
        [1 + math.cos(math.pi * k / 4) for k in range(4)], rel=1e-2
    )


def test_clients_that_send_nothing_are_answered_nothing_and_read_as_grey():
    session, answers = listening(torch.zeros(8, 4, 8, 8))

    decoder = hijacked(session)

    assert not any(answer.any() for answer in answers)
    assert torch.equal(decoder.images(session.replay(0)), torch.full((8, 1, 8, 8), 0.5))


def test_a_decoder_takes_16_bits():
    decoder = HijackDecoder(
        InverseNetwork(torch.rand(2, 4, 4, 4), ImageSpace(shape_CHW=(1, 8, 8)), 4), ImageSpace(shape_CHW=(1, 8, 8))
    )

    assert decoder.images((torch.rand(3, 4, 4, 4).bfloat16(),)).dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("pilot_steps", -1),
        ("batch", 0),
        ("width", 0),
        ("learning_rate", 0.0),
        ("answer_length", math.inf),
        ("penalty_weight", -1.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        FeatureSpaceHijack(**{field: value})


@pytest.mark.slow
def test_hijacked_clients_behind_a_convolution_leak_and_their_detectors_notice():
    """A convolution, normalisation and rectifiers; the guesses are at 11 dB. The control is undone as well."""
    run = digits_run(steps=4)
    hijack = FeatureSpaceHijack(steps=1200)

    ((cell,),) = [at.cells for at in run.audit(AuditSettings(attacks=(hijack,), threat="malicious_server", records=24))]

    assert cell.control.passed
    assert cell.verdict is Verdict.LEAKS
    assert cell.gain.low > 4
    assert "Gradients Scrutinizer would have warned 3 of 3" in cell.budget
