"""What a server that deviates does with clients: it takes what they send, and answers with gradients of its choice."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sent:
    """What a client sends for one of its batches.

    Attributes:
        client: The client.
        smashed: The crossing tensors, as the server decodes them.
        known: What crosses beside them, by name: labels, where the records have any. A client that looks out for
            hijackers may send false ones.
    """

    client: int
    smashed: tuple[Tensor, ...]
    known: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A conversation with copies of clients, which share one half and have the server's turn about.

    The half begins as it was in force at the messages under attack. Clients come in turn, go through their own batches
    over and over, and step with the gradient that they are answered; the half is handed on. The run itself is
    untouched, and there is no way to the records but through what is sent.

    Attributes:
        send: The next client sends its next batch.
        answer: Answers what was sent last with a gradient for each crossing tensor, as of the client's mean loss; the
            client steps.
        replay: What the half as it is now makes of the batch of a message under attack, by the message's number.
        noticed: What the clients' own detectors make of the answers so far, in a line.
    """

    send: Callable[[], Sent]
    answer: Callable[[Sequence[Tensor]], None]
    replay: Callable[[int], tuple[Tensor, ...]]
    noticed: Callable[[], str]


OpenSession = Callable[[str, Sequence[int]], Session]
"""Opens a session at a cut with the clients that sent these messages of smashed data, by their numbers."""
