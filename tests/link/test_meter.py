import torch

from lightning_sfl.link.message import Message, MessageKind
from lightning_sfl.link.meter import Meter, Traffic


def make(kind, sender, receiver, elements):
    return Message(
        number=0,
        kind=kind,
        sender=sender,
        receiver=receiver,
        round=0,
        step=0,
        cut=None,
        tensors={"0": torch.zeros(elements)},
    )


UP = make(MessageKind.SMASHED, "client/0", "server", 10)
DOWN = make(MessageKind.CUT_GRADIENT, "server", "client/0", 20)
STATE_UP = make(MessageKind.OPTIMIZER_STATE, "client/1", "fed_server", 1)
STATE_DOWN = make(MessageKind.OPTIMIZER_STATE, "fed_server", "client/1", 2)


def metered(*messages):
    meter = Meter()
    for message in messages:
        meter.count(message)
    return meter


def test_a_new_meter_has_counted_nothing():
    assert Meter().total() == Traffic(messages=0, payload_bit=0, framing_bit=0)
    assert Meter().by_kind() == {}
    assert metered(UP).total(MessageKind.MASK) == Traffic()


def test_totals_go_by_kind_and_direction():
    """Payloads are 32 bits per element: 10 and 10 up, 20 down, 1 up, 2 down."""
    meter = metered(UP, DOWN, STATE_UP, UP, STATE_DOWN)

    def payload(*arguments, **options):
        found = meter.total(*arguments, **options)
        return found.messages, found.payload_bit

    assert payload() == (5, 32 * 43)
    assert payload(uplink=True) == (3, 32 * 21)
    assert payload(uplink=False) == (2, 32 * 22)
    assert payload(MessageKind.SMASHED) == (2, 32 * 20)
    assert payload(MessageKind.SMASHED, uplink=False) == (0, 0)
    assert payload(MessageKind.OPTIMIZER_STATE) == (2, 32 * 3)
    assert payload(MessageKind.OPTIMIZER_STATE, uplink=True) == (1, 32 * 1)
    assert payload(MessageKind.OPTIMIZER_STATE, uplink=False) == (1, 32 * 2)


def test_framing_is_counted_beside_the_payload():
    meter = metered(UP, DOWN)
    assert meter.total().framing_bit == UP.framing_bit + DOWN.framing_bit
    assert meter.total(MessageKind.SMASHED).framing_bit == 8 * len(UP.to_bytes()) - 320


def test_kinds_come_in_the_order_in_which_they_first_crossed_and_add_up_to_the_total():
    meter = metered(DOWN, STATE_UP, UP, DOWN, STATE_DOWN)
    by_kind = meter.by_kind()
    assert list(by_kind) == [
        (MessageKind.CUT_GRADIENT, False),
        (MessageKind.OPTIMIZER_STATE, True),
        (MessageKind.SMASHED, True),
        (MessageKind.OPTIMIZER_STATE, False),
    ]
    assert sum(by_kind.values(), Traffic()) == meter.total()
    assert by_kind[MessageKind.CUT_GRADIENT, False].messages == 2


def test_traffic_adds_up_and_knows_its_bytes():
    total = Traffic(messages=1, payload_bit=16, framing_bit=8) + Traffic(messages=2, payload_bit=32, framing_bit=64)
    assert total == Traffic(messages=3, payload_bit=48, framing_bit=72)
    assert total.payload_byte == 6


def test_what_a_client_sent_and_received_is_counted_by_itself():
    """What goes between servers is no client's; what is given is a copy."""
    moved = make(MessageKind.MOVED_LAYERS, "server", "fed_server", 5)
    meter = metered(UP, DOWN, STATE_UP, UP, STATE_DOWN, moved)
    assert meter.payload_bit_of(0) == {
        (MessageKind.SMASHED, True): 32 * 20,
        (MessageKind.CUT_GRADIENT, False): 32 * 20,
    }
    assert meter.payload_bit_of(1).total() == 32 * 3
    assert meter.payload_bit_of(7) == {}
    assert meter.payload_bit_of(None) == {(MessageKind.MOVED_LAYERS, False): 32 * 5}
    meter.payload_bit_of(0).clear()
    assert meter.payload_bit_of(0).total() == 32 * 40
