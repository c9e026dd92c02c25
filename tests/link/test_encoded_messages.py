"""Messages that went through codecs: bits, bytes, what a receiver makes of them, and of spoilt ones."""

import dataclasses
import math

import pytest
import torch
from codec_cases import CHAINS, DTYPES, expected_bit, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sfl.link.codecs import (
    Chain,
    Float16,
    Form,
    NearestUniform,
    NotFiniteError,
    RandomK,
    RandomProjection,
    Sign,
    StochasticUniform,
    TopK,
)
from lightning_sfl.link.coding import Coding
from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import Message, MessageKind


@dataclasses.dataclass
class Always:
    """The same codecs for everything, or for some clients alone."""

    codecs: Chain
    clients: tuple[int, ...] = tuple(range(10))
    seed: int = 0

    def chain(self, kind, client, round):
        return self.codecs if client in self.clients else Chain()


def link_with(*codecs, log=None, **options):
    return LocalLink(log, Always(Chain(codecs), **options))


def send(link, tensors, *, kind=MessageKind.SMASHED, client=3, step=5, **options):
    return link.send(
        kind,
        sender=f"client/{client}",
        receiver="server",
        round=2,
        step=step,
        cut="layer",
        tensors=tensors,
        **options,
    )


def logged(link_codecs, tensors, **options):
    log = MessageLog()
    received = send(link_with(*link_codecs, log=log), tensors, **options)
    return next(log.messages()), received


@settings(max_examples=60)
@given(chain=CHAINS, payload=st.dictionaries(st.sampled_from(["0", "a.weight", "größe/1"]), tensors(), max_size=3))
def test_law_5_metered_is_serialised_is_the_formula_and_the_log_holds_what_arrived(chain, payload):
    log = MessageLog()
    link = link_with(*chain.codecs, log=log)
    received = send(link, payload)
    message = next(log.messages())
    expected = sum(expected_bit(chain, tensor.numel(), DTYPES[tensor.dtype]) for tensor in payload.values())
    total = link.meter.total()
    assert total.payload_bit == message.payload_bit == expected
    data = message.to_bytes()
    assert total.payload_bit + total.framing_bit == 8 * len(data)
    for found in (message, Message.from_bytes(data)):
        assert found.codings == message.codings
        decoded = found.decoded()
        assert list(decoded) == list(received) == list(payload)
        for name, tensor in payload.items():
            assert Form.of(decoded[name]) == Form.of(tensor)
            assert torch.equal(decoded[name], received[name])


def test_a_message_without_codecs_decodes_to_its_tensors():
    payload = {"b": torch.ones(2), "a": torch.zeros(3, dtype=torch.int64)}
    message, received = logged((), payload)
    assert message.codings == {}
    assert list(message.decoded()) == ["b", "a"]
    assert all(received[name] is payload[name] for name in payload)
    assert b"encoded" not in message.to_bytes()


def test_the_header_tells_how_a_tensor_is_encoded():
    message, _ = logged((TopK(fraction=0.5), StochasticUniform(bits=4)), {"0": torch.arange(6.0).view(2, 3)})
    assert list(message.tensors) == ["0", "0/0.places", "0/1.range"]
    chain = Chain((TopK(fraction=0.5), StochasticUniform(bits=4)))
    assert message.codings == {"0": Coding(Form((2, 3), torch.float32), chain)}
    assert b"TopK(fraction=0.5), StochasticUniform(bits=4)" in message.to_bytes()


def test_other_draws_for_another_tensor_client_step_and_kind_and_the_same_for_the_same():
    codecs, tensor = (StochasticUniform(bits=2),), torch.linspace(0, 1, 64)
    one = send(link_with(*codecs), {"0": tensor, "1": tensor})
    again = send(link_with(*codecs), {"0": tensor, "1": tensor})
    assert torch.equal(one["0"], again["0"])
    others = [
        one["1"],
        *(send(link_with(*codecs), {"0": tensor}, **change)["0"] for change in ({"client": 4}, {"step": 6})),
        send(link_with(*codecs), {"0": tensor}, kind=MessageKind.CUT_GRADIENT)["0"],
        send(link_with(*codecs, seed=1), {"0": tensor})["0"],
    ]
    assert not any(torch.equal(one["0"], other) for other in others)


def test_clients_without_codecs_and_what_goes_between_servers_are_left_alone():
    link = link_with(NearestUniform(bits=1), clients=(1,))
    tensor = torch.tensor([0.0, 0.4, 1.0])
    assert send(link, {"0": tensor}, client=0)["0"] is tensor
    assert send(link, {"0": tensor}, client=1)["0"].tolist() == [0.0, 0.0, 1.0]
    between = link.send(
        MessageKind.MOVED_LAYERS,
        sender="server",
        receiver="fed_server",
        round=0,
        step=0,
        cut=None,
        tensors={"0": tensor},
    )
    assert between["0"] is tensor


# Differences and what is left out


def test_the_difference_to_what_the_receiver_has_is_what_is_encoded():
    """Differences 2, -1, 0.5: the largest is kept. The receiver has 1 + 2, and the others as they were."""
    base = {"w": torch.ones(3), "count": torch.tensor(4)}
    message, received = logged(
        (TopK(fraction=0.3),), {"w": torch.tensor([3.0, 0.0, 1.5]), "count": torch.tensor(9)}, base=base
    )
    assert received["w"].tolist() == [3.0, 1.0, 1.0]
    assert received["count"].item() == 9
    assert message.codings["w"].is_difference
    assert "count" not in message.codings
    assert message.decoded()["w"].tolist() == [2.0, 0.0, 0.0]
    assert Message.from_bytes(message.to_bytes()).codings == message.codings


@pytest.mark.parametrize(
    "codecs",
    [
        (TopK(fraction=0.2, error_feedback=True),),
        (RandomK(fraction=0.2, error_feedback=True),),
        (TopK(fraction=0.2, error_feedback=True), StochasticUniform(bits=3)),
    ],
)
def test_what_is_left_out_is_kept_and_sent_later(codecs):
    """The sum of what arrived and of the memory is the sum of what was to be sent, at any time.

    Without the memory, the elements that are never among the largest never arrive.
    """
    link, base = link_with(*codecs), torch.zeros(10, dtype=torch.float64)
    wanted = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    arrived = torch.zeros_like(base)
    for step in range(60):
        arrived += send(link, {"w": wanted}, base={"w": base}, step=step)["w"]
        left = link.memory.of(3)["w"]
        torch.testing.assert_close(arrived + left, (step + 1) * wanted)
    assert bool((arrived > 0).all())
    forgets = send(link_with(TopK(fraction=0.2)), {"w": wanted}, base={"w": base})["w"]
    assert int((forgets > 0).sum()) == 2


def test_every_client_and_tensor_has_a_memory_of_its_own_which_can_be_saved():
    link = link_with(TopK(fraction=0.5, error_feedback=True))
    base = {"a": torch.zeros(2), "b": torch.zeros(2)}
    for client in (0, 1):
        send(link, {"a": torch.tensor([1.0, 2.0]) + client, "b": torch.tensor([5.0, 4.0])}, client=client, base=base)
    state = link.memory.state_dict()
    assert {client: {name: t.tolist() for name, t in own.items()} for client, own in state.items()} == {
        0: {"a": [1.0, 0.0], "b": [0.0, 4.0]},
        1: {"a": [2.0, 0.0], "b": [0.0, 4.0]},
    }
    other = link_with(TopK(fraction=0.5, error_feedback=True))
    other.memory.load_state_dict(state)
    ends = [send(each, {"a": torch.tensor([1.0, 1.5])}, base=base, client=0)["a"] for each in (link, other)]
    assert ends[0].tolist() == ends[1].tolist() == [2.0, 0.0]


# Bad input


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("codec", [StochasticUniform(bits=8), TopK(fraction=0.5), Float16(), Sign()])
def test_what_is_not_finite_is_named_and_nothing_is_sent(wrong, codec):
    log = MessageLog()
    link = link_with(codec, log=log)
    message = r"smashed of client 3 in step 5: tensor '1' cannot be encoded by .*: it holds NaN or infinite values"
    with pytest.raises(NotFiniteError, match=message):
        send(link, {"0": torch.ones(2), "1": torch.tensor([1.0, wrong])})
    assert log.is_empty()
    assert link.meter.total().messages == 0


def test_integers_are_refused_by_name():
    message = r"smashed of client 3 in step 5: tensor 'ids' cannot be encoded by Float16\(\): .*type int64"
    with pytest.raises(ValueError, match=message):
        send(link_with(Float16()), {"0": torch.ones(2), "ids": torch.zeros(2, dtype=torch.int64)})


def test_a_number_that_overflows_is_an_error_and_no_case_for_leaving_out():
    with pytest.raises(ValueError, match="tensor '0' cannot be encoded by Float16.*up to 65504") as raised:
        send(link_with(Float16()), {"0": torch.tensor([1e6])})
    assert not isinstance(raised.value, NotFiniteError)


def test_a_tensor_with_the_name_of_another_ones_part_is_refused():
    with pytest.raises(ValueError, match="'a/0.range' stands where a part of 'a'"):
        send(link_with(NearestUniform(bits=2)), {"a": torch.ones(2), "a/0.range": torch.ones(2)})


SOME = st.sampled_from(
    [
        (),
        (StochasticUniform(bits=3),),
        (TopK(fraction=0.3), NearestUniform(bits=5)),
        (RandomK(fraction=0.5),),
        (RandomProjection(fraction=0.5), Sign()),
    ]
)


@settings(max_examples=100)
@given(codecs=SOME, data=st.data())
def test_a_flipped_bit_anywhere_is_found(codecs, data):
    whole = logged(codecs, {"0": torch.linspace(-1, 1, 11)})[0].to_bytes()
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError, match=rf"These {len(whole)} bytes are not a whole message"):
        Message.from_bytes(bytes(spoilt))


@settings(max_examples=50)
@given(codecs=SOME, data=st.data())
def test_a_truncated_message_is_found(codecs, data):
    whole = logged(codecs, {"0": torch.linspace(-1, 1, 11)})[0].to_bytes()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match=rf"These {len(part)} bytes are not a whole message"):
        Message.from_bytes(part)


def test_a_part_that_no_encoder_makes_is_named_with_its_message():
    message, _ = logged((StochasticUniform(bits=3),), {"0": torch.linspace(-1, 1, 11)})
    spoilt = dataclasses.replace(message, tensors={**message.tensors, "0/0.range": torch.tensor([[math.nan], [1.0]])})
    named = (
        r"Message 0, smashed of client 3 in step 5: tensor '0' cannot be decoded \(StochasticUniform\(bits=3\)\): the"
        " ends of its range are not finite"
    )
    for each in (spoilt, Message.from_bytes(spoilt.to_bytes())):
        with pytest.raises(ValueError, match=named):
            each.decoded()


@pytest.mark.parametrize("gone", ["0", "0/0.places"])
def test_a_missing_part_is_named(gone):
    message, _ = logged((TopK(fraction=0.3),), {"0": torch.linspace(-1, 1, 11)})
    spoilt = dataclasses.replace(message, tensors={n: t for n, t in message.tensors.items() if n != gone})
    with pytest.raises(ValueError, match=r"tensor '0' cannot be decoded .* it is missing"):
        spoilt.decoded()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", '{"0":{}}', '{"0":{"dtype":"int64","shape":[2],"codecs":""}}'),
        '{"0":{"dtype":"float32","shape":[-2],"codecs":""}}',
        '{"0":{"dtype":"float32","shape":[2],"codecs":"Gzip()"}}',
    ],
)
def test_a_header_that_tells_nonsense_is_refused(text, monkeypatch):
    message, _ = logged((TopK(fraction=0.3),), {"0": torch.linspace(-1, 1, 11)})
    monkeypatch.setattr("lightning_sfl.link.coding.to_text", lambda codings: text)
    from lightning_sfl.link import message as module

    module._encoded.cache_clear()
    data = message.to_bytes()
    module._encoded.cache_clear()
    with pytest.raises(ValueError, match=rf"These {len(data)} bytes are not a whole message"):
        Message.from_bytes(data)
