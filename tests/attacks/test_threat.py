import pytest
import torch
from attack_cases import PoisonedLog

from attacks.activation_inversion import ActivationInversion
from attacks.threat import AttackerView, Knowledge, ThreatModel
from lightning_sfl.link.message import MessageKind

SMASHED_ONLY = ThreatModel(
    name="listener",
    description="Sees the smashed data alone.",
    sees=frozenset({MessageKind.SMASHED}),
    knows=frozenset({Knowledge.INPUT_SHAPE}),
)


@pytest.fixture
def log() -> PoisonedLog:
    """One message of every kind from each of two clients."""
    log = PoisonedLog()
    for client in (0, 1):
        for place, kind in enumerate(MessageKind):
            log.add(kind, {"0": torch.full((2,), 10.0 * client + place)}, client=client, round=0, step=0, indices=(1,))
    return log


def test_declared_kind_is_seen_in_the_order_sent(log):
    view = AttackerView(log, SMASHED_ONLY)

    seen = list(view.messages(MessageKind.SMASHED))

    assert [message.kind for message in seen] == [MessageKind.SMASHED] * 2
    assert [message.client for message in seen] == [0, 1]
    assert [message.tensors["0"].tolist() for message in seen] == [[0.0, 0.0], [10.0, 10.0]]


def test_messages_of_one_client_alone_can_be_asked_for(log):
    seen = list(AttackerView(log, SMASHED_ONLY).messages(MessageKind.SMASHED, client=1))

    assert [message.client for message in seen] == [1]


@pytest.mark.parametrize("kind", [kind for kind in MessageKind if kind is not MessageKind.SMASHED])
def test_undeclared_kind_is_refused_by_name(log, kind):
    view = AttackerView(log, SMASHED_ONLY)

    with pytest.raises(ValueError, match=f"'{kind.value}'.*'listener'.*sees smashed only"):
        list(view.messages(kind))


@pytest.mark.parametrize("kind", [MessageKind.CUT_GRADIENT, MessageKind.CLIENT_UPDATE, MessageKind.OPTIMIZER_STATE])
def test_activation_inversion_reads_neither_gradients_nor_updates(log, kind):
    view = AttackerView(log, ActivationInversion.threat)

    with pytest.raises(ValueError, match="must declare"):
        list(view.messages(kind))


def test_activation_inversion_declares_all_it_needs(log):
    view = AttackerView(log, ActivationInversion.threat)

    for kind in ActivationInversion.threat.sees:
        assert len(list(view.messages(kind))) == 2


def test_the_view_has_no_way_to_the_truth(log):
    view = AttackerView(log, ActivationInversion.threat)

    assert [name for name in dir(view) if not name.startswith("_")] == ["messages", "threat"]
