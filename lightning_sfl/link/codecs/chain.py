"""Codecs one after the other, and the short text that tells a receiver which they were."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from lightning_sfl.link.codecs.codec import Codec, Draw, Encoded, EncodedForm, Form
from lightning_sfl.link.codecs.half import BFloat16, Float16
from lightning_sfl.link.codecs.random_k import RandomK
from lightning_sfl.link.codecs.random_projection import RandomProjection
from lightning_sfl.link.codecs.sign import Sign
from lightning_sfl.link.codecs.top_k import TopK
from lightning_sfl.link.codecs.uniform import NearestUniform, StochasticUniform

_KNOWN: dict[str, type[Codec]] = {
    kind.__name__: kind
    for kind in (StochasticUniform, NearestUniform, Float16, BFloat16, TopK, RandomK, RandomProjection, Sign)
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """Codecs from left to right: each encodes the value that the one before it made. Empty: sent as it is.

    A tensor becomes parts by name: ``""`` is the last codec's value, ``"0.places"`` a side tensor of the first.

    Raises:
        ValueError: Something in it is no codec, is not known to a receiver, or follows one whose value is packed
            integers.
    """

    codecs: tuple[Codec, ...] = ()

    def __post_init__(self) -> None:
        for place, codec in enumerate(self.codecs):
            if _KNOWN.get(type(codec).__name__) is not type(codec):
                raise ValueError(f"{codec!r} is not accepted as a codec: give {', '.join(_KNOWN)} with its arguments.")
            if codec.ends_chain and place + 1 < len(self.codecs):
                raise ValueError(
                    f"{call_text(codec)} ends in packed integers, which {call_text(self.codecs[place + 1])} cannot"
                    " encode: put it last."
                )

    @classmethod
    def of(cls, codecs: object) -> "Chain":
        """The chain of a sequence of codecs.

        Raises:
            ValueError: It is not a sequence, or the codecs cannot follow each other.
        """
        if not isinstance(codecs, Sequence) or isinstance(codecs, str):
            raise ValueError(f"{codecs!r} is not accepted as codecs: give a sequence of them, such as (TopK(...),).")
        return cls(tuple(codecs))

    @property
    def feeds_back(self) -> bool:
        """Whether the sender keeps what was left out and adds it the next time."""
        return any(isinstance(codec, TopK | RandomK) and codec.error_feedback for codec in self.codecs)

    def with_bits(self, bits: int | None) -> "Chain":
        """The same with other bits of its uniform quantiser; None takes the quantiser out."""
        changed = tuple(_with_bits(codec, bits) for codec in self.codecs)
        return Chain(tuple(codec for codec in changed if codec is not None))

    @property
    def has_bits(self) -> bool:
        """Whether there is a uniform quantiser in it."""
        return self.bits is not None

    @property
    def bits(self) -> int | None:
        """The bits of the first uniform quantiser in it; None where there is none."""
        found = (codec.bits for codec in self.codecs if isinstance(codec, StochasticUniform | NearestUniform))
        return next(found, None)

    def part_forms(self, form: Form) -> dict[str, Form]:
        """The forms of the parts that a tensor of this form becomes.

        Raises:
            ValueError: A codec cannot encode such a tensor.
        """
        encoded = self._forms(form)
        parts = {"": encoded[-1].value if encoded else form}
        for place, each in enumerate(encoded):
            parts |= {f"{place}.{name}": side for name, side in each.side.items()}
        return parts

    def payload_bit(self, form: Form) -> int:
        """Exact bits of the payload that a tensor of this form becomes.

        Raises:
            ValueError: A codec cannot encode such a tensor.
        """
        return sum(part.bit for part in self.part_forms(form).values())

    def encode(self, tensor: Tensor, draw: Draw) -> dict[str, Tensor]:
        """The parts of a tensor.

        Raises:
            NotFiniteError: It holds NaN or infinite values.
            ValueError: A codec cannot encode it.
        """
        parts: dict[str, Tensor] = {}
        for place, codec in enumerate(self.codecs):
            encoded = codec.encode(tensor, draw.at(place))
            tensor = encoded.value
            parts |= {f"{place}.{name}": side for name, side in encoded.side.items()}
        return {"": tensor, **parts}

    def decode(self, parts: Mapping[str, Tensor], form: Form) -> Tensor:
        """The tensor of this form that a receiver makes of parts.

        Raises:
            ValueError: No encoder makes those parts.
        """
        expected = self.part_forms(form)
        for name, part_form in expected.items():
            if name not in parts or Form.of(parts[name]) != part_form:
                found = Form.of(parts[name]) if name in parts else "missing"
                raise ValueError(f"part {name!r} must be {part_form}; it is {found}.")
        value = parts[""]
        inputs = [form, *(each.value for each in self._forms(form))]
        for place, codec in reversed(list(enumerate(self.codecs))):
            prefix = f"{place}."
            side = {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
            value = codec.decode(Encoded(value, side), inputs[place])
        return value

    def _forms(self, form: Form) -> list[EncodedForm]:
        forms: list[EncodedForm] = []
        for codec in self.codecs:
            forms.append(codec.encoded_form(form))
            form = forms[-1].value
        return forms

    def __str__(self) -> str:
        """As a receiver is told: ``TopK(fraction=0.1), StochasticUniform(bits=8)``."""
        return ", ".join(map(call_text, self.codecs))

    @classmethod
    def parse(cls, text: str) -> "Chain":
        """The chain that writes itself so.

        Raises:
            ValueError: None does.
        """
        try:
            tree = ast.parse(f"[{text}]", mode="eval").body
            if not isinstance(tree, ast.List):
                raise ValueError("they are no sequence.")
            return cls(tuple(map(_called, tree.elts)))
        except (SyntaxError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"codecs {text!r} are not known here: {error}") from error


def call_text(codec: Codec) -> str:
    """A codec as it is written in Python, without the arguments that are the default."""
    fields = dataclasses.fields(cast(Any, codec))
    given = {field.name: getattr(codec, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    return f"{type(codec).__name__}({', '.join(f'{n}={v!r}' for n, v in given.items() if v != defaults[n])})"


def _called(call: ast.expr) -> Codec:
    """The codec that a call such as ``TopK(fraction=0.1)`` makes."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("each must be a name with keyword arguments.")
    return _KNOWN[call.func.id](**{str(given.arg): ast.literal_eval(given.value) for given in call.keywords})


def _with_bits(codec: Codec, bits: int | None) -> Codec | None:
    if not isinstance(codec, StochasticUniform | NearestUniform):
        return codec
    return None if bits is None else dataclasses.replace(codec, bits=bits)
