"""A message, and its bytes on the wire.

The wire form is a safetensors file written in one pass: an 8-byte length, a JSON header padded to 8 bytes with a CRC-32
of the whole, who sends what to whom, how it is encoded and where each tensor lies, then the tensors' own bytes in
order. The payload is the tensors' bytes, the framing all the rest; both are known without serialising anything.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Mapping
from enum import StrEnum

import torch
from safetensors.torch import load
from torch import Tensor

from lightning_sfl.link import coding
from lightning_sfl.link.coding import Coding

SERVER = "server"
FED_SERVER = "fed_server"
_CLIENT = "client/"
_ALIGNMENT_BYTE = 8
_FIELDS = "__metadata__"
_BEFORE_CHECKSUM = f'{{"{_FIELDS}":{{"crc32":"'.encode()
_NO_CHECKSUM = b"00000000"
_CHECKSUM = slice(_ALIGNMENT_BYTE + len(_BEFORE_CHECKSUM), _ALIGNMENT_BYTE + len(_BEFORE_CHECKSUM) + len(_NO_CHECKSUM))
_DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class MessageKind(StrEnum):
    """What a message carries."""

    SMASHED = "smashed"
    LABEL = "label"
    MASK = "mask"
    INPUT = "input"
    CUT_GRADIENT = "cut_gradient"
    SERVER_OUTPUT = "server_output"
    OUTPUT_GRADIENT = "output_gradient"
    BROADCAST = "broadcast"
    CLIENT_UPDATE = "client_update"
    OPTIMIZER_STATE = "optimizer_state"
    MOVED_LAYERS = "moved_layers"
    SEEDS = "seeds"
    SCALARS = "scalars"
    MISSED_PAIRS = "missed_pairs"


def client_name(client: int) -> str:
    """The name of a client as a sender or receiver."""
    return f"{_CLIENT}{client}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What one party sends to another.

    Attributes:
        number: Place in the order of all messages of a run.
        kind: What it carries.
        sender: Who sends it: ``"server"`` (trains the upper half), ``"fed_server"`` (averages) or ``"client/3"``.
        receiver: Who receives it.
        round: The round it belongs to.
        step: The step it belongs to, counted over the whole run.
        cut: The cut in force, or None where there is none.
        tensors: The payload, by name.
        codings: How tensors of these names were encoded; each is in parts then, the side tensors being called
            ``"NAME/0.places"`` and the like.
    """

    number: int
    kind: MessageKind
    sender: str
    receiver: str
    round: int
    step: int
    cut: str | None
    tensors: Mapping[str, Tensor]
    codings: Mapping[str, Coding] = dataclasses.field(default_factory=dict)

    @property
    def is_uplink(self) -> bool:
        """Whether a client sends it."""
        return self.sender.startswith(_CLIENT)

    @property
    def client(self) -> int | None:
        """The client that sends or receives it; None between servers."""
        party = self.sender if self.is_uplink else self.receiver
        return int(party.removeprefix(_CLIENT)) if party.startswith(_CLIENT) else None

    @property
    def payload_bit(self) -> int:
        """Bits of the tensors: Σ elements × bits per element."""
        return 8 * sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def framing_bit(self) -> int:
        """Bits on the wire that are not payload: length, header, padding."""
        return 8 * (_ALIGNMENT_BYTE + len(_header(self)))

    def decoded(self) -> dict[str, Tensor]:
        """The tensors that the receiver makes of it, by name; of those not encoded, the tensors themselves.

        Where a coding says so, it is the difference to what the receiver has already.

        Raises:
            ValueError: An encoded tensor is such as no encoder makes.
        """
        if not self.codings:
            return dict(self.tensors)
        found: dict[str, Tensor] = {}
        for name, how in self.codings.items():
            try:
                found[name] = how.decode(name, self.tensors)
            except ValueError as error:
                raise ValueError(
                    f"{self._in_words()}: tensor {name!r} cannot be decoded ({how.chain}): {error}"
                ) from error
        sides = {side for name, how in self.codings.items() for side in how.side_names(name)}
        return {name: found.get(name, tensor) for name, tensor in self.tensors.items() if name not in sides}

    def _in_words(self) -> str:
        whose = "between servers" if self.client is None else f"of client {self.client}"
        return f"Message {self.number}, {self.kind.value} {whose} in step {self.step}"

    def to_bytes(self) -> bytes:
        """The message as it goes over the wire; a safetensors file."""
        header = _header(self)
        parts = [len(header).to_bytes(_ALIGNMENT_BYTE, "little"), header]
        parts += [_raw_bytes(tensor) for tensor in self.tensors.values()]
        data = bytearray(b"".join(parts))
        data[_CHECKSUM] = _checksum(data)
        return bytes(data)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Message":
        """Read a message back from its wire form.

        Raises:
            ValueError: The bytes are not those of a whole message.
        """
        try:
            _check_checksum(data)
            length = int.from_bytes(data[:_ALIGNMENT_BYTE], "little")
            fields = json.loads(data[_ALIGNMENT_BYTE : _ALIGNMENT_BYTE + length])[_FIELDS]
            tensors = load(data)
            order = [name for name in json.loads(data[_ALIGNMENT_BYTE : _ALIGNMENT_BYTE + length]) if name in tensors]
            return cls(
                number=int(fields["number"]),
                kind=MessageKind(fields["kind"]),
                sender=fields["sender"],
                receiver=fields["receiver"],
                round=int(fields["round"]),
                step=int(fields["step"]),
                cut=fields["cut"] or None,
                tensors={name: tensors[name] for name in order},
                codings=coding.from_text(fields["encoded"]) if "encoded" in fields else {},
            )
        except Exception as error:
            raise ValueError(f"These {len(data)} bytes are not a whole message: {error}") from error


def _header(message: Message) -> bytes:
    fields = (
        f'"number":"{message.number}","kind":"{message.kind}","sender":{_json(message.sender)},'
        f'"receiver":{_json(message.receiver)},"round":"{message.round}","step":"{message.step}",'
        f'"cut":{_json(message.cut or "")}{_encoded(tuple(message.codings.items()))}'
    )
    forms = tuple((name, tensor.dtype, tensor.shape) for name, tensor in message.tensors.items())
    text = _BEFORE_CHECKSUM + _NO_CHECKSUM + f'",{fields}}}{_entries(forms)}}}'.encode()
    return text + b" " * (-len(text) % _ALIGNMENT_BYTE)


@functools.lru_cache(maxsize=256)
def _encoded(codings: tuple[tuple[str, Coding], ...]) -> str:
    """How the tensors are encoded; nothing where none is."""
    return f',"encoded":{json.dumps(coding.to_text(dict(codings)), ensure_ascii=False)}' if codings else ""


@functools.lru_cache(maxsize=256)
def _entries(forms: tuple[tuple[str, torch.dtype, torch.Size], ...]) -> str:
    """Where tensors of these names, types and shapes lie; the same from step to step, and every step is metered."""
    text, offset = "", 0
    for name, dtype, shape in forms:
        if name == _FIELDS:
            raise ValueError(f"A tensor cannot be named {name!r}, which is where a message's own fields stand.")
        end = offset + shape.numel() * dtype.itemsize
        lies = f'"dtype":"{_dtype_name(dtype)}","shape":[{",".join(map(str, shape))}],"data_offsets":[{offset},{end}]'
        text += f",{_json(name)}:{{{lies}}}"
        offset = end
    return text


@functools.lru_cache(maxsize=1024)
def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _checksum(data: bytes | bytearray) -> bytes:
    """The CRC-32 of a wire form in which none stands yet."""
    return f"{zlib.crc32(data):08x}".encode()


def _check_checksum(data: bytes) -> None:
    """Raise a ValueError unless the checksum in a wire form is that of all its other bytes."""
    found = data[_CHECKSUM]
    if data[_ALIGNMENT_BYTE : _CHECKSUM.start] != _BEFORE_CHECKSUM or len(found) != len(_NO_CHECKSUM):
        raise ValueError("its header does not begin with a checksum.")
    with_none = bytearray(data)
    with_none[_CHECKSUM] = _NO_CHECKSUM
    if found != (expected := _checksum(with_none)):
        raise ValueError(f"its checksum is {found!r}, that of its bytes {expected!r}.")


def _dtype_name(dtype: torch.dtype) -> str:
    try:
        return _DTYPE_NAMES[dtype]
    except KeyError:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPE_NAMES)
        raise ValueError(f"A tensor of type {dtype} cannot cross the link; accepted are {accepted}.") from None


def _raw_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
