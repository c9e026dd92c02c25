import dataclasses
import json
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sfl.link.link import LocalLink
from lightning_sfl.link.message import Message, MessageKind, client_name

BITS = {
    torch.bool: 8,
    torch.uint8: 8,
    torch.int8: 8,
    torch.int16: 16,
    torch.int32: 32,
    torch.int64: 64,
    torch.float16: 16,
    torch.bfloat16: 16,
    torch.float32: 32,
    torch.float64: 64,
}
NAMES = st.one_of(
    st.sampled_from(["0", "model.layer1.0.weight", "größe", "模型.权重", "🌲", 'quo"te\\', "a/b", ""]),
    st.text(max_size=8),
)


@st.composite
def tensors(draw):
    """Any bits, as any type and shape: 0-dimensional, empty, transposed, expanded, with gradient."""
    dtype = draw(st.sampled_from(list(BITS)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (count * BITS[dtype] // 8,), generator=generator)
    tensor = raw.to(torch.uint8).view(dtype).reshape(shape)
    if draw(st.booleans()) and tensor.ndim > 1:
        tensor = tensor.transpose(0, -1)
    if draw(st.booleans()) and tensor.ndim > 0:
        tensor = tensor.unsqueeze(0).expand(2, *tensor.shape)
    if draw(st.booleans()) and tensor.is_floating_point():
        tensor = tensor.clone().requires_grad_()
    return tensor


@st.composite
def messages(draw):
    client = client_name(draw(st.integers(0, 10**6)))
    ends = draw(st.permutations([client, draw(st.sampled_from(["server", "fed_server"]))]))
    return Message(
        number=draw(st.integers(0, 10**12)),
        kind=draw(st.sampled_from(MessageKind)),
        sender=ends[0],
        receiver=ends[1],
        round=draw(st.integers(0, 10**9)),
        step=draw(st.integers(0, 10**9)),
        cut=draw(st.one_of(st.none(), st.text(min_size=1, max_size=8))),
        tensors=draw(st.dictionaries(NAMES, tensors(), max_size=4)),
    )


def make(payload=None, **fields):
    given_fields = {
        "number": 0,
        "kind": MessageKind.SMASHED,
        "sender": "client/3",
        "receiver": "server",
        "round": 0,
        "step": 0,
        "cut": "layer",
        "tensors": payload or {},
    }
    return Message(**{**given_fields, **fields})


def raw_bits(tensor):
    """A tensor's very bits, so that NaN equals NaN."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_same_tensors(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype is tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw_bits(found[name]) == raw_bits(tensor)
        assert not found[name].requires_grad


@settings(max_examples=50)
@given(message=messages())
def test_payload_is_elements_times_bits_and_payload_and_framing_are_all_bytes(message):
    payload = sum(tensor.numel() * BITS[tensor.dtype] for tensor in message.tensors.values())
    assert message.payload_bit == payload
    data = message.to_bytes()
    assert message.payload_bit + message.framing_bit == 8 * len(data)
    header_length = int.from_bytes(data[:8], "little")
    assert message.framing_bit == 8 * (8 + header_length)
    assert header_length % 8 == 0


@settings(max_examples=50)
@given(message=messages())
def test_a_message_comes_back_from_its_bytes(message):
    found = Message.from_bytes(message.to_bytes())
    assert_same_tensors(found.tensors, message.tensors)
    assert found.kind is message.kind
    without = {"tensors": {}}
    assert dataclasses.replace(found, **without) == dataclasses.replace(message, **without)
    assert (found.payload_bit, found.framing_bit) == (message.payload_bit, message.framing_bit)


@settings(max_examples=50)
@given(message=messages())
def test_the_safetensors_library_reads_the_same_bytes(message):
    found = safetensors.torch.load(message.to_bytes())
    assert found.keys() == message.tensors.keys()
    assert_same_tensors({name: found[name] for name in message.tensors}, message.tensors)


@given(sent=st.lists(messages(), max_size=8))
def test_the_meter_of_a_link_counts_the_bits_of_what_it_serialises(sent):
    link = LocalLink()
    for message in sent:
        fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
        link.send(
            fields.pop("kind"), **{name: value for name, value in fields.items() if name not in ("number", "codings")}
        )
    numbered = [dataclasses.replace(message, number=place) for place, message in enumerate(sent)]
    total = link.meter.total()
    assert total.messages == len(sent)
    assert total.payload_bit == sum(
        tensor.numel() * BITS[tensor.dtype] for message in sent for tensor in message.tensors.values()
    )
    assert total.payload_bit + total.framing_bit == 8 * sum(len(message.to_bytes()) for message in numbered)


def test_the_header_says_who_sends_what_to_whom():
    data = make({"0": torch.ones(2)}, number=7, round=2, step=5).to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    without = data.replace(header["__metadata__"]["crc32"].encode(), b"00000000", 1)
    assert header == {
        "__metadata__": {
            "crc32": f"{zlib.crc32(without):08x}",
            "number": "7",
            "kind": "smashed",
            "sender": "client/3",
            "receiver": "server",
            "round": "2",
            "step": "5",
            "cut": "layer",
        },
        "0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    assert data[-8:] == b"\x00\x00\x80\x3f" * 2


@given(message=messages(), data=st.data())
def test_bytes_that_are_not_a_whole_message_are_refused(message, data):
    whole = message.to_bytes()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match=rf"These {len(part)} bytes are not a whole message"):
        Message.from_bytes(part)
    with pytest.raises(ValueError, match=rf"These {len(whole) + 1} bytes are not a whole message"):
        Message.from_bytes(whole + b"\x00")


def test_a_safetensors_file_that_is_no_message_is_refused():
    data = safetensors.torch.save({"weight": torch.ones(1)})
    with pytest.raises(ValueError, match=rf"These {len(data)} bytes are not a whole message"):
        Message.from_bytes(data)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_type_that_cannot_cross_is_refused(dtype):
    message = make({"a": torch.zeros(2, dtype=dtype)})
    with pytest.raises(ValueError, match=rf"type {dtype} cannot cross the link; accepted are bool, uint8,.*float64"):
        message.to_bytes()
    with pytest.raises(ValueError, match="cannot cross the link"):
        _ = message.framing_bit


def test_a_tensor_cannot_take_the_place_of_the_header():
    """`__metadata__` is the safetensors format's own name; such a message could not be read again."""
    with pytest.raises(ValueError, match="__metadata__"):
        make({"__metadata__": torch.ones(1)}).to_bytes()


def test_a_message_knows_its_direction_and_its_client():
    up = make(sender="client/12", receiver="server")
    down = make(sender="fed_server", receiver="client/7")
    assert up.is_uplink
    assert up.client == 12
    assert not down.is_uplink
    assert down.client == 7
    assert client_name(12) == "client/12"


def test_a_link_hands_over_what_is_sent():
    payload = {"b": torch.ones(2), "a": torch.zeros(1)}
    arrived = LocalLink().send(
        MessageKind.LABEL, sender="client/0", receiver="server", round=0, step=0, cut=None, tensors=payload
    )
    assert list(arrived) == ["b", "a"]
    assert all(arrived[name] is payload[name] for name in payload)
    assert arrived is not payload
