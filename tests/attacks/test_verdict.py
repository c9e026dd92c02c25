"""From figures to words."""

import pytest
import torch

from attacks.attack import RebuiltBatch
from attacks.attacker import Records
from attacks.audit.score import score_images
from attacks.audit.truth import Truth
from attacks.audit.verdict import verdict
from attacks.images import ImageSpace
from lightning_sfl.link.log import MessageLog, Origin
from lightning_sfl.link.message import SERVER, Message, MessageKind, client_name
from lightning_sfl.report.leakage import Control, Interval, Verdict

ABOVE, AROUND = (Interval(mean=5.0, low=low, high=9.0, records=8, clients=3) for low in (1.0, -1.0))
WORKS, FAILS = (Control(victim="v", value=value, needed=20.0) for value in (30.0, 5.0))


def said(**changes) -> tuple[Verdict, str]:
    figures = {
        "gain": AROUND, "p_adjusted": 0.3, "baseline": "mid-grey", "worst_record": 25.0, "threshold": 20.0,
        "control": WORKS, "bound": "", "records_beyond": 0,
    }  # fmt: skip
    return verdict(**{**figures, **changes})


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        ({"gain": ABOVE, "p_adjusted": 0.01}, Verdict.LEAKS, "beats mid-grey, and at least one record passes 20"),
        ({"gain": ABOVE, "p_adjusted": 0.01, "worst_record": 19.0}, Verdict.PARTLY, "but no record passes 20"),
        ({"gain": ABOVE, "p_adjusted": 0.06}, Verdict.INCONCLUSIVE, "a stronger attack may"),
        ({"p_adjusted": 0.01}, Verdict.INCONCLUSIVE, "a stronger attack may"),
        ({"records_beyond": 2}, Verdict.LEAKS, "2 records come back past 20 and far nearer than every guess"),
        ({"records_beyond": 1, "bound": "zeros"}, Verdict.LEAKS, "1 record comes back"),
        ({"bound": "zeros"}, Verdict.BOUNDED, "zeros"),
        ({"control": FAILS}, Verdict.INCONCLUSIVE, "this attack says nothing"),
        ({"control": None}, Verdict.INCONCLUSIVE, "without a control it may be at fault"),
    ],
)
def test_what_figures_are_said_to_show(changes, expected, why):
    found, reason = said(**changes)

    assert found is expected
    assert why in reason


def scored(images_NCHW, rebuilt_NCHW, auxiliary_NCHW):
    """Of one record for each client."""
    log = MessageLog()
    for client in range(len(images_NCHW)):
        names = {"sender": client_name(client), "receiver": SERVER}
        sent = {"0": torch.zeros(1)}
        log.append(
            Message(number=client, kind=MessageKind.SMASHED, round=0, step=0, cut="c", tensors=sent, **names),
            Origin(client, (client,)),
        )
    truth = Truth(log, lambda indices: Records(images_BCHW=images_NCHW[list(indices)]))
    batches = tuple(
        RebuiltBatch(number=client, images_BCHW=rebuilt_NCHW[client : client + 1], in_order=True, fit=None)
        for client in range(len(images_NCHW))
    )
    space = ImageSpace(shape_CHW=tuple(images_NCHW.shape[1:]))
    auxiliary = Records(images_BCHW=auxiliary_NCHW)
    return score_images(batches, truth, space, auxiliary, threshold_db=20.0, pictures=0)


def test_a_record_is_beyond_all_guesses_at_a_tenth_of_the_squared_error_of_the_nearest_image():
    """Records of the values 0, 0.3, 0.6; the nearest auxiliary image is 0.1 off each, 20 dB, so 30 dB are needed.

    Rebuilt 0.03 off (30.5 dB), 0.04 off (28 dB), 0.5 off (6 dB): one is beyond, two pass the threshold.
    """
    values = torch.tensor([0.0, 0.3, 0.6])
    images = values[:, None, None, None].expand(3, 1, 8, 8)
    rebuilt = images + torch.tensor([0.03, 0.04, -0.5])[:, None, None, None]

    score = scored(images, rebuilt, images + 0.1)

    assert score.records_beyond == 1
    assert score.share_recovered == pytest.approx(2 / 3)


def test_what_a_prior_invents_of_any_message_is_no_breach():
    """All records are grey and the attack says grey, of whatever message: 100 dB, and so is every guess."""
    grey = torch.full((3, 1, 8, 8), 0.5)

    assert scored(grey, grey, grey + 0.2).records_beyond == 0
