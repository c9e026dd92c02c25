"""Threat models: which messages an attacker sees, and what it knows besides. Who could be such an attacker."""

import dataclasses
from enum import StrEnum

from lightning_sfl.link.message import MessageKind


class Knowledge(StrEnum):
    """What an attacker knows besides the messages it sees."""

    ARCHITECTURE = "architecture"
    """The program of the model: its layers, not their weights."""
    INPUT_RANGE = "input_range"
    """Shape and type of a private input, and the smallest and largest value an element can have."""
    CLIENT_WEIGHTS = "client_weights"
    """The weights of the client's half that were in force when a message was made."""
    SERVER_WEIGHTS = "server_weights"
    """The weights of the server's half."""
    AUXILIARY_RECORDS = "auxiliary_records"
    """Records of the same kind with their labels, that are not among those under attack."""
    OUTSIDE_RECORDS = "outside_records"
    """Records of another kind."""
    QUERIES = "queries"
    """What the client's half makes of inputs of the attacker's choice."""
    BATCH_STATISTICS = "batch_statistics"
    """How a batch moved the running statistics of batch normalisation, which cross with the weights."""
    LOCAL_HYPERPARAMETERS = "local_hyperparameters"
    """How clients step: optimizer, learning rate, number of local steps; and, where they run forward only, how far and
    along which kind of directions they move their weights."""
    BATCH_SIZES = "batch_sizes"
    """How many records a client's step holds."""
    KNOWN_LABELS = "known_labels"
    """The class of one record of each class among those that crossed, such as an accomplice's own."""
    CANDIDATES = "candidates"
    """A pool of records with those under attack among them, in an order that says nothing: what remains to be found out
    is which were used. Whoever holds a record can ask that of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who an attacker is, or what an attack needs.

    Attributes:
        name: A short name for reports.
        description: One sentence for reports.
        sees: Kinds of messages it sees.
        knows: What it knows besides.
        deviates: Whether it may send what the protocol does not say.
    """

    name: str
    description: str
    sees: frozenset[MessageKind]
    knows: frozenset[Knowledge]
    deviates: bool = False

    def lacks(self, needed: "ThreatModel") -> tuple[str, ...]:
        """What is needed and not granted by this one, by name; empty if it grants everything."""
        missing = [kind.value for kind in sorted(needed.sees - self.sees)]
        missing += [fact.value for fact in sorted(needed.knows - self.knows)]
        return (*missing, "deviating from the protocol") if needed.deviates and not self.deviates else tuple(missing)


_AT_THE_CUT = frozenset(
    {
        MessageKind.SMASHED,
        MessageKind.LABEL,
        MessageKind.MASK,
        MessageKind.INPUT,
        MessageKind.CUT_GRADIENT,
        MessageKind.SERVER_OUTPUT,
        MessageKind.OUTPUT_GRADIENT,
        MessageKind.SEEDS,
        MessageKind.SCALARS,
    }
)
_OF_WEIGHTS = frozenset(
    {
        MessageKind.BROADCAST,
        MessageKind.CLIENT_UPDATE,
        MessageKind.OPTIMIZER_STATE,
        MessageKind.MOVED_LAYERS,
        MessageKind.MISSED_PAIRS,
        MessageKind.SEEDS,
    }
)
_PUBLIC = frozenset(
    {
        Knowledge.ARCHITECTURE,
        Knowledge.INPUT_RANGE,
        Knowledge.AUXILIARY_RECORDS,
        Knowledge.OUTSIDE_RECORDS,
        Knowledge.BATCH_SIZES,
        Knowledge.KNOWN_LABELS,  # whoever has a client among its accomplices knows that one's
        Knowledge.CANDIDATES,
    }
)

SPLIT_SERVER = ThreatModel(
    name="split server",
    description=(
        "The server behind the cut, honest but curious: it sees what crosses the cut and knows its own half and how a"
        " client computes, but not the weights that clients compute with. It can have a client's half run on inputs of"
        " its choice, since it may be a client's customer too."
    ),
    sees=_AT_THE_CUT,
    knows=_PUBLIC | {Knowledge.SERVER_WEIGHTS, Knowledge.QUERIES},
)
FED_SERVER = ThreatModel(
    name="fed server",
    description=(
        "The server that averages, honest but curious: it sees what clients upload and what they are sent of the model,"
        " and knows how they step. It sees nothing that crosses the cut."
    ),
    sees=_OF_WEIGHTS,
    knows=_PUBLIC
    | {
        Knowledge.CLIENT_WEIGHTS,
        Knowledge.LOCAL_HYPERPARAMETERS,
        Knowledge.BATCH_STATISTICS,
        Knowledge.QUERIES,  # it has the weights
    },
)
COLLUDING_SERVERS = ThreatModel(
    name="both servers",
    description=(
        "Both servers together, or one that does both, honest but curious: everything that clients send and are sent,"
        " the weights of both halves and how clients step."
    ),
    sees=SPLIT_SERVER.sees | FED_SERVER.sees,
    knows=SPLIT_SERVER.knows | FED_SERVER.knows,
)
NETWORK_OBSERVER = ThreatModel(
    name="network observer",
    description=(
        "Somebody who reads the whole traffic: all messages, and how a client computes, but no weights that never"
        " cross, and no hyper-parameters."
    ),
    sees=COLLUDING_SERVERS.sees,
    knows=_PUBLIC | {Knowledge.CLIENT_WEIGHTS, Knowledge.BATCH_STATISTICS, Knowledge.QUERIES},
)
MALICIOUS_SERVER = ThreatModel(
    name="malicious server",
    description="Both servers together, which besides send clients other cut gradients and weights than they should.",
    sees=COLLUDING_SERVERS.sees,
    knows=COLLUDING_SERVERS.knows,
    deviates=True,
)

PRESETS = {
    threat.name.replace(" ", "_"): threat
    for threat in (SPLIT_SERVER, FED_SERVER, COLLUDING_SERVERS, NETWORK_OBSERVER, MALICIOUS_SERVER)
}
"""By the name that configurations give."""


def who_could(needed: ThreatModel) -> tuple[str, ...]:
    """The names of the presets that grant what an attack needs."""
    return tuple(threat.name for threat in PRESETS.values() if not threat.lacks(needed))
