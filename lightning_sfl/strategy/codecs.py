"""What ``codecs`` say: which codecs a client's messages go through, and with how many bits in which round."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.algorithms.placement import Algorithm
from lightning_sfl.allocation import UNENCODED_BIT, Allocation
from lightning_sfl.link.codecs.chain import Chain
from lightning_sfl.link.codecs.codec import Codec
from lightning_sfl.link.codecs.uniform import UniformQuantiser
from lightning_sfl.link.message import MessageKind
from lightning_sfl.strategy.planned import Planned

Codecs = Sequence[Codec] | dict[str, Sequence[Codec]] | dict[int, Sequence[Codec] | dict[str, Sequence[Codec]]]
"""A chain for all that crosses at the cuts; or chains by kind of message; or either of these by client."""

_AT_CUTS = (
    MessageKind.SMASHED,
    MessageKind.CUT_GRADIENT,
    MessageKind.SERVER_OUTPUT,
    MessageKind.OUTPUT_GRADIENT,
)
_ENCODED = (*_AT_CUTS, MessageKind.CLIENT_UPDATE)
_Chains = dict[MessageKind, Chain]


@dataclasses.dataclass(frozen=True)
class GivenCodecs:
    """The argument, checked.

    Attributes:
        everybody: The chains of clients without chains of their own.
        by_client: The chains of those that have them.
    """

    everybody: _Chains
    by_client: dict[int, _Chains]

    @classmethod
    def of(cls, codecs: Codecs, num_clients: int, algorithm: Algorithm, *, is_u_shape: bool) -> "GivenCodecs":
        """What ``codecs`` mean.

        Raises:
            ValueError: Something is no codec, a chain cannot be one, a kind or client is unknown, or what is to be
                encoded never crosses.
        """
        found = cls._read(codecs, num_clients)
        found._check(algorithm, is_u_shape=is_u_shape)
        return found

    @classmethod
    def _read(cls, codecs: object, num_clients: int) -> "GivenCodecs":
        clients = [key for key in codecs if type(key) is int] if isinstance(codecs, Mapping) else []
        if not isinstance(codecs, Mapping) or not clients:
            return cls(_chains("codecs", codecs), {})
        if wrong := [key for key in codecs if key not in clients or not 0 <= int(key) < num_clients]:
            raise ValueError(
                f"codecs={{{wrong[0]!r}: ...}} is not accepted beside clients: give clients from 0 to"
                f" {num_clients - 1} alone, each with its codecs."
            )
        return cls({}, {client: _chains(f"codecs of client {client}", codecs[client]) for client in sorted(clients)})

    def _check(self, algorithm: Algorithm, *, is_u_shape: bool) -> None:
        used = {kind for chains in (self.everybody, *self.by_client.values()) for kind in chains}
        if not algorithm.uses_cut and used & set(_AT_CUTS):
            raise ValueError(
                f"codecs={str(self)!r} does not go with algorithm={algorithm.name!r}, which has no cut where smashed"
                " data or gradients could cross. Accepted is {'client_update': [...]}."
            )
        if isinstance(algorithm, ForwardOnly) and MessageKind.CLIENT_UPDATE in used:
            raise ValueError(
                f"codecs={str(self)!r} does not go with algorithm={algorithm.name!r}, whose clients send no updates."
                f" Accepted are {MessageKind.SMASHED.value!r} and {MessageKind.CUT_GRADIENT.value!r}."
            )
        turns = {MessageKind.SERVER_OUTPUT, MessageKind.OUTPUT_GRADIENT}
        if not is_u_shape and used & turns and not used >= set(_AT_CUTS):
            raise ValueError(
                f"codecs={str(self)!r} names {min(used & turns).value!r}, which crosses in a U-shape alone: give"
                " cut=(first, last)."
            )

    def of_client(self, client: int) -> _Chains:
        """A client's chains by kind."""
        return self.by_client.get(client, self.everybody)

    @property
    def encodes_at_cuts(self) -> bool:
        """Whether anything that crosses at a cut is encoded."""
        return any(kind in _AT_CUTS for chains in (self.everybody, *self.by_client.values()) for kind in chains)

    def quantised(self, clients: int) -> dict[MessageKind, list[bool]]:
        """Of every kind of message at the cuts, whose go through a uniform quantiser."""
        return {
            kind: [kind in own and own[kind].has_bits for own in map(self.of_client, range(clients))]
            for kind in _AT_CUTS
        }

    def quantiser_bits(self, clients: int) -> list[int] | None:
        """Every client's bits, if all that it encodes goes through the same uniform quantiser per tensor.

        32 for clients that encode nothing; None if anybody's codecs do something else.
        """
        return (
            None if None in (found := [self._bits_of(client) for client in range(clients)]) else cast(list[int], found)
        )

    def _bits_of(self, client: int) -> int | None:
        chains = self.of_client(client)
        if not chains:
            return UNENCODED_BIT
        different = set(chains.values())
        codecs = next(iter(different)).codecs
        if not set(chains) <= set(_AT_CUTS) or len(different) > 1 or len(codecs) > 1:
            return None
        quantiser = codecs[0]
        is_plain = isinstance(quantiser, UniformQuantiser) and quantiser.channel_dim is None
        return cast(UniformQuantiser, quantiser).bits if is_plain else None

    def __str__(self) -> str:
        """In one line, as in ``smashed: TopK(fraction=0.1); client_update: Sign()``; none: ``none``."""
        if self.by_client:
            return " | ".join(f"client {client}: {_text(chains)}" for client, chains in self.by_client.items())
        return _text(self.everybody)


class CodecPlan:
    """The codecs of a fit: those given, with the bits that clients were given since.

    Args:
        given: The strategy's codecs.
        seed: Seeds what codecs draw.
    """

    def __init__(self, given: GivenCodecs, seed: int) -> None:
        self.seed = seed
        self.given = given
        self._bits: Planned[list[int] | None] = Planned(None)

    def chain(self, kind: MessageKind, client: int, round: int) -> Chain:
        """See :class:`~lightning_sfl.link.link.LinkCodecs`."""
        chain = self.given.of_client(client).get(kind, Chain())
        bits = self._bits.reach(round)
        if bits is None or kind not in _AT_CUTS or not chain.has_bits:
            return chain
        return chain.with_bits(None if bits[client] == UNENCODED_BIT else bits[client])

    def next_bits(self, num_clients: int) -> list[int] | None:
        """Every client's bits at the cut in the end, 32 for those without a quantiser; None if nobody has one."""
        if self._bits.last is not None:
            return list(self._bits.last)
        given = [self.given.of_client(client) for client in range(num_clients)]
        found = [[chains[kind].bits for kind in _AT_CUTS if kind in chains] for chains in given]
        bits = [next((bit for bit in own if bit is not None), None) for own in found]
        return None if not any(bits) else [bit or UNENCODED_BIT for bit in bits]

    def check(self, allocation: Allocation) -> None:
        """Raise a ValueError if a client is to send in fewer bits and has no uniform quantiser."""
        for client, bit in enumerate(allocation.bits or ()):
            chains = self.given.of_client(client)
            if bit != UNENCODED_BIT and not any(chains[kind].has_bits for kind in _AT_CUTS if kind in chains):
                raise ValueError(
                    f"Allocation(bits=...) gives client {client} {bit} bits, and there is no uniform quantiser in its"
                    f" codecs ({_text(chains)}) whose bits these could be. Give the strategy"
                    f" codecs=[StochasticUniform(bits={bit})], or client {client} {UNENCODED_BIT} bits, which is as it"
                    " is."
                )

    def plan(self, allocation: Allocation, round: int) -> None:
        """Give clients bits from a round on that has not begun, if the allocation says which."""
        if allocation.bits is None:
            return
        self._bits.plan([int(bit) for bit in allocation.bits], round)

    def state_dict(self) -> dict[str, Any]:
        """As plain Python, for checkpoints."""
        return self._bits.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._bits.load_state_dict(state)


def _chains(whose: str, codecs: object) -> _Chains:
    """Chains by kind, those that do nothing left out."""
    given = codecs if isinstance(codecs, Mapping) else dict.fromkeys(_AT_CUTS, codecs)
    chains: _Chains = {}
    for kind, sequence in given.items():
        if kind not in _ENCODED:
            accepted = ", ".join(repr(each.value) for each in _ENCODED)
            raise ValueError(
                f"{whose}: {kind!r} is not accepted; give a sequence of codecs, or sequences for {accepted}. Labels,"
                " masks, inputs, seeds, scalars, broadcasts and optimizer state are sent as they are."
            )
        chain = Chain.of(sequence)
        if chain.feeds_back and kind != MessageKind.CLIENT_UPDATE:
            raise ValueError(
                f"{whose}: error_feedback=True is for {MessageKind.CLIENT_UPDATE.value!r} alone. What was left out of"
                f" {MessageKind(kind).value!r} belongs to records that the next one does not hold."
            )
        if chain.codecs:
            chains[MessageKind(kind)] = chain
    return chains


def _text(chains: _Chains) -> str:
    kinds = [kind for kind in _ENCODED if kind in chains]
    if kinds == list(_AT_CUTS) and len({chains[kind] for kind in kinds}) == 1:
        return str(chains[MessageKind.SMASHED])
    return "; ".join(f"{kind.value}: {chains[kind]}" for kind in kinds) or "none"
