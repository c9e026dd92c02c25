"""How a message's tensors were encoded: what its receiver is told, and what it makes of the parts."""

import dataclasses
import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_sfl.link.codecs.chain import Chain
from lightning_sfl.link.codecs.codec import FLOATS, Draw, Form

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


@dataclasses.dataclass(frozen=True, slots=True)
class Coding:
    """How one tensor was encoded.

    Attributes:
        form: Shape and type of the tensor.
        chain: The codecs.
        is_difference: Whether it is the difference to what the receiver has already.
    """

    form: Form
    chain: Chain
    is_difference: bool = False

    def encode(self, name: str, tensor: Tensor, draw: Draw) -> dict[str, Tensor]:
        """The parts of a tensor, as they are named in a message.

        Raises:
            NotFiniteError: It holds NaN or infinite values.
            ValueError: A codec cannot encode it.
        """
        return {_part_name(name, part): value for part, value in self.chain.encode(tensor, draw).items()}

    def decode(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor that the receiver makes of a message's tensors.

        Raises:
            ValueError: No encoder makes its parts.
        """
        parts = {part: tensors[stands] for part, stands in self._stands(name).items() if stands in tensors}
        return self.chain.decode(parts, self.form)

    def side_names(self, name: str) -> Iterable[str]:
        """Names of the side tensors in a message."""
        return [stands for part, stands in self._stands(name).items() if part]

    def _stands(self, name: str) -> dict[str, str]:
        """Where each part stands in a message."""
        return {part: _part_name(name, part) for part in self.chain.part_forms(self.form)}


def to_text(codings: Mapping[str, Coding]) -> str:
    """As a message's header has it."""
    entries = {
        name: {
            "dtype": str(coding.form.dtype).removeprefix("torch."),
            "shape": list(coding.form.shape),
            "codecs": str(coding.chain),
            **({"of": "difference"} if coding.is_difference else {}),
        }
        for name, coding in codings.items()
    }
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


def from_text(text: str) -> dict[str, Coding]:
    """What :func:`to_text` wrote.

    Raises:
        ValueError: It did not write this.
    """
    codings: dict[str, Coding] = {}
    for name, entry in json.loads(text).items():
        shape = tuple(entry["shape"])
        if entry["dtype"] not in _DTYPES or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"tensor {name!r} is said to be {entry['dtype']!r} of shape {shape}.")
        codings[name] = Coding(
            Form(shape, _DTYPES[entry["dtype"]]), Chain.parse(entry["codecs"]), entry.get("of") == "difference"
        )
    return codings


def _part_name(name: str, part: str) -> str:
    return f"{name}/{part}" if part else name
