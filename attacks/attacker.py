"""What an attack is handed: the messages and the knowledge that it declared, and nothing else."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from attacks.images import ImageSpace
from attacks.local_optimizer import LocalOptimizer
from attacks.program import Program
from attacks.session import OpenSession, Session
from attacks.threat import Knowledge, ThreatModel
from lightning_sfl.algorithms.forward_only import ForwardOnly
from lightning_sfl.link.codecs import Draw, Form
from lightning_sfl.link.coding import Coding
from lightning_sfl.link.log import MessageSource
from lightning_sfl.link.message import Message, MessageKind

Fact = TypeVar("Fact")
_IN_A_SESSION = frozenset({MessageKind.SMASHED, MessageKind.LABEL, MessageKind.CUT_GRADIENT})


AT_SECOND_CUT = frozenset({MessageKind.SERVER_OUTPUT, MessageKind.OUTPUT_GRADIENT})
"""What crosses at the second cut of a U-shape, and carries its name; all else carries the name of the first."""

KnownLabels = Mapping[tuple[int, int], int]
"""Classes of records, by the number of a message and the record's place in its batch."""


class UndeclaredError(ValueError):
    """An attack reached for what its threat model does not hold: its report would be wrong."""


class UnavailableError(ValueError):
    """What an attack needs is not there, so it cannot be tried here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """Images with their labels.

    Attributes:
        images_BCHW: As the model is given them.
        labels_B: One class each, int64; None where they have none.
    """

    images_BCHW: Tensor
    labels_B: Tensor | None = None


class Pool(Protocol):
    """Records with those under attack among them; who audits it fills it, and keeps to itself which they are."""

    def records(self, round: int) -> Records:
        """The images of a round's pool, in an order that says nothing."""
        ...

    def places(self, round: int, indices: Sequence[int]) -> list[int]:
        """Where in it these records of the training set stand: for scoring, never for an attack."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Background:
    """What there is to know of a run besides its messages; who audits it gathers it, attacks are handed parts of it.

    Attributes:
        program: Gives the model's program at a cut; at None the whole of it.
        space: Where private images lie.
        auxiliary: Records of the kind that clients hold, of which none is under attack.
        outside: Records of another kind.
        server_weights: The model's weights, by name, of which the server's half is as it was at the newest message.
        client_weights: The model's weights, by name, that a step of the log was made with. Needed only where no
            broadcast says so (clients that draw their updates from seeds).
        client_weights_step: Which step; None: the newest.
        optimizer: How clients step.
        batch_sizes: How many records each of a client's steps of a round holds, by client and round.
        from_checkpoint: Whether the run began from weights that were trained before.
        sessions: Opens conversations with copies of clients; an audit has it made from the log and the true records.
        known_labels: Of some messages, given by their numbers, the classes that an attacker may know.
        probing: How clients probe that run forward only.
        candidates: Records with those under attack among them.
    """

    program: Callable[[str | None], Program]
    space: ImageSpace
    auxiliary: Records | None = None
    outside: Records | None = None
    server_weights: Mapping[str, Tensor] | None = None
    client_weights: Mapping[str, Tensor] | None = None
    client_weights_step: int | None = None
    optimizer: LocalOptimizer | None = None
    batch_sizes: Callable[[int, int], tuple[int, ...]] | None = None
    from_checkpoint: bool = False
    sessions: OpenSession | None = None
    known_labels: Callable[[Sequence[int]], KnownLabels] | None = None
    probing: ForwardOnly | None = None
    candidates: Pool | None = None


class Attacker:
    """Hands an attack what its threat model holds. It knows no truth.

    Args:
        source: The message log.
        threat: What the attack declared.
        background: What there is to know.
        cut: The cut whose messages are attacked; None: those of clients that hold the whole model.
        records: Whole batches are attacked, one client after the other, until at least so many records were.
    """

    def __init__(
        self,
        source: MessageSource,
        threat: ThreatModel,
        background: Background,
        *,
        cut: str | None,
        records: int,
    ) -> None:
        self._source = source
        self._background = background
        self.threat = threat
        self.cut = cut
        self.records = records
        self._programs: dict[str | None, Program] = {}
        self._told: KnownLabels | None = None

    def messages(self, kind: MessageKind, *, client: int | None = None, every_cut: bool = False) -> Iterator[Message]:
        """Messages of one kind, at this cut or at every cut, in the order in which they were sent.

        Those that cross at the second cut of a U-shape are of the batches that crossed this one.

        Raises:
            UndeclaredError: The threat model does not let the attacker see this kind.
        """
        if kind not in self.threat.sees:
            seen = ", ".join(sorted(self.threat.sees)) or "nothing"
            raise UndeclaredError(
                f"kind={kind.value!r}: the threat model {self.threat.name!r} sees {seen} only. An attack must declare"
                " what it reads."
            )
        found = self._source.messages(kinds=[kind], client=client)
        if kind not in AT_SECOND_CUT:
            return (message for message in found if every_cut or message.cut == self.cut)
        sent = self._source.messages(kinds=[MessageKind.SMASHED], client=client)
        here = {(message.client, message.step) for message in sent if every_cut or message.cut == self.cut}
        return (message for message in found if (message.client, message.step) in here)

    def sees(self, kind: MessageKind) -> bool:
        """Whether messages of this kind may be asked for."""
        return kind in self.threat.sees

    def knows(self, fact: Knowledge) -> bool:
        """Whether this may be asked for."""
        return fact in self.threat.knows

    @property
    def program(self) -> Program:
        """The model's program at this cut; the same one however often it is asked for."""
        return self.program_at(self.cut)

    def program_at(self, cut: str | None) -> Program:
        """The model's program at a cut that the log has messages of; at None, the whole of it."""
        self._require(Knowledge.ARCHITECTURE)
        return self._program_at(cut)

    @property
    def normalisations(self) -> Mapping[str, nn.Module]:
        """The program's layers whose running statistics move by a fixed share of every batch's, by name."""
        self._require(Knowledge.BATCH_STATISTICS)
        return {
            name: part
            for name, part in self._program_at(self.cut).module.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            and part.training
            and part.track_running_stats
            and part.momentum
        }

    @property
    def space(self) -> ImageSpace:
        """Where private images lie."""
        self._require(Knowledge.INPUT_RANGE)
        return self._background.space

    @property
    def auxiliary(self) -> Records:
        """Records of the kind that clients hold.

        Raises:
            UnavailableError: There are none.
        """
        return self._given(self._background.auxiliary, Knowledge.AUXILIARY_RECORDS)

    @property
    def auxiliary_unit(self) -> Tensor | None:
        """The same as unit images, (N, C, H, W); None if there are none, for attacks that can do without."""
        self._require(Knowledge.AUXILIARY_RECORDS)
        found = self._background.auxiliary
        return None if found is None else self.space.to_unit(found.images_BCHW)

    @property
    def outside(self) -> Records:
        """Records of another kind.

        Raises:
            UnavailableError: There are none.
        """
        return self._given(self._background.outside, Knowledge.OUTSIDE_RECORDS)

    @property
    def server_weights(self) -> Mapping[str, Tensor]:
        """The server's half, by name.

        Raises:
            UnavailableError: It is not known.
        """
        weights = self._given(self._background.server_weights, Knowledge.SERVER_WEIGHTS)
        split = self._background.program(self.cut).split
        held = set() if split is None else {*split.server_parameters, *split.server_buffers}
        return {name: tensor for name, tensor in weights.items() if name in held}

    @property
    def optimizer(self) -> LocalOptimizer:
        """How clients step.

        Raises:
            UnavailableError: It is not known.
        """
        return self._given(self._background.optimizer, Knowledge.LOCAL_HYPERPARAMETERS)

    @property
    def probing(self) -> ForwardOnly:
        """How clients probe that run forward only.

        Raises:
            UnavailableError: It is not known.
        """
        return self._given(self._background.probing, Knowledge.LOCAL_HYPERPARAMETERS)

    def candidates(self, round: int) -> Records:
        """Records with those that a round's messages stem from among them.

        Raises:
            UnavailableError: There are none.
        """
        return self._given(self._background.candidates, Knowledge.CANDIDATES).records(round)

    def batch_sizes(self, client: int, round: int) -> tuple[int, ...]:
        """How many records each of a client's steps of a round holds, in their order.

        Raises:
            UnavailableError: It is not known.
        """
        return self._given(self._background.batch_sizes, Knowledge.BATCH_SIZES)(client, round)

    def known_labels(self, numbers: Sequence[int]) -> KnownLabels:
        """The classes that it knows of one record of each class among those behind these messages.

        They can be asked for once: asked message by message they would come to more than one record of each class.

        Raises:
            UnavailableError: None are known.
            UndeclaredError: They were handed out before.
        """
        known = self._given(self._background.known_labels, Knowledge.KNOWN_LABELS)
        if self._told is not None:
            raise UndeclaredError(f"numbers={tuple(numbers)}: known labels are handed out once, and they were.")
        self._told = known(numbers)
        return self._told

    @property
    def told(self) -> KnownLabels:
        """The labels that were handed out, which nobody is to be credited with."""
        return self._told or {}

    def query(self, client: int, round: int, number: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """Has a client's half run on images of the attacker's choice: what crosses, as it is decoded.

        Args:
            client: Whose half.
            round: With the weights that it was sent at the beginning of this round.
            number: The message of smashed data whose codecs it goes through.

        Raises:
            UnavailableError: The weights are not known to anybody.
        """
        self._require(Knowledge.QUERIES)
        program = self._background.program(self.cut)
        weights: Mapping[str, Tensor] | None = self._background.client_weights
        coding: Mapping[str, Coding] = {}
        for message in self._source.messages(client=client):
            if message.kind is MessageKind.BROADCAST and message.round == round and message.cut == self.cut:
                weights = message.decoded()
            if message.number == number:
                coding = message.codings
        if weights is None:
            raise UnavailableError("it needs queries, and no weights are known to answer them with.")
        program.check(weights)
        name, _, _ = program.image_input(1)
        names = tuple(coding)

        def ask(images_BCHW: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                sent = program.smashed(weights, {name: images_BCHW}, {})
                if not names:
                    return sent
                return tuple(
                    coding[key].chain.decode(coding[key].chain.encode(one, Draw(0, "query")), Form.of(one))
                    for key, one in zip(names, sent, strict=True)
                )

        return ask

    def session(self, numbers: Sequence[int]) -> Session:
        """A conversation with copies of the clients that sent these messages of smashed data.

        Raises:
            UndeclaredError: The attacker may not deviate from the protocol, or does not see all that a session shows.
            UnavailableError: Nobody can play the clients.
        """
        if not self.threat.deviates:
            raise UndeclaredError(
                f"the threat model {self.threat.name!r} does not deviate from the protocol: an attack that answers"
                " clients as it likes must declare that."
            )
        if unseen := _IN_A_SESSION - self.threat.sees:
            raise UndeclaredError(
                f"the threat model {self.threat.name!r} does not see {', '.join(sorted(unseen))}, which a session"
                " shows: an attack must declare what it reads."
            )
        if self._background.sessions is None or self.cut is None:
            raise UnavailableError("it needs clients that answer behind a cut, which this audit was not given.")
        return self._background.sessions(self.cut, numbers)

    @property
    def latest_client_weights(self) -> Mapping[str, Tensor]:
        """The clients' half at :attr:`client_weights_step`, by name, where no broadcast says so.

        Raises:
            UnavailableError: It is not known.
        """
        self._require(Knowledge.CLIENT_WEIGHTS)
        weights = self._background.client_weights
        if weights is None:
            raise UnavailableError(
                "it needs client_weights, which this audit was not given, and clients are sent none: give a checkpoint"
                " that a step of this log began with (--ckpt_path), as 'tradeoff' leaves beside every log."
            )
        split = self._background.program(self.cut).split
        held = None if split is None else {*split.client_parameters, *split.client_buffers}
        return {name: tensor for name, tensor in weights.items() if held is None or name in held}

    @property
    def client_weights_step(self) -> int | None:
        """Which step that was; None: the newest."""
        self._require(Knowledge.CLIENT_WEIGHTS)
        return self._background.client_weights_step

    def _program_at(self, cut: str | None) -> Program:
        if cut not in self._programs:
            self._programs[cut] = self._background.program(cut)
        return self._programs[cut]

    def _given(self, found: Fact | None, fact: Knowledge) -> Fact:
        self._require(fact)
        if found is None:
            raise UnavailableError(f"it needs {fact.value}, which this audit was not given.")
        return found

    def _require(self, fact: Knowledge) -> None:
        if fact not in self.threat.knows:
            known = ", ".join(sorted(self.threat.knows)) or "nothing"
            raise UndeclaredError(
                f"knowledge={fact.value!r}: the threat model {self.threat.name!r} knows {known} only. An attack must"
                " declare what it uses."
            )
