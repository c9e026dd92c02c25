"""SFLAM: bits, transmit powers and subchannels that weigh a round's latency against its energy."""

import dataclasses
import math

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.policies.decision import Decision, InfeasibleError
from lightning_sfl.policies.latency_energy import Plan, plan
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.solvers.subchannels import share

_SUBCHANNELS_EACH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFLAM:
    """Minimises w T/T_ref + (1 - w) ΣE/E_ref over bits, powers and subchannels (arXiv 2504.09114).

    The problem and the algorithm are a reconstruction: the released code has neither. Cuts, batch sizes and clocks stay
    as they are; the paper has the embedding on the clients. Bits are those of whatever the client's quantiser is
    for, smashed data alone or cut gradients too. The limit on the error holds for every client, so each has the
    fewest bits that meet it. The range of what crosses is taken for the same in all clients. Subchannels are of one
    width and a client's gain is the same in all of them, so their number is what is decided.

    In place of alternating between power and subchannels, which stops where neither can do better alone, both are
    solved together for given deadlines of the stages, and the deadlines by a convex search.

    Attributes:
        weight: w: how much latency counts, above 0 and at most 1. With 0 nobody would ever be done.
        most_error: The most that quantisation may err in the mean square, as a share of the squared range of what
            crosses: 1/(4 (2^q - 1)²) at q bits. By default that of 8 bits.
        bits: The choices: from 1 to 16, or 32 for what is sent as computed.
        subchannels: Into how many the band is divided; None: eight for every client.
    """

    weight: float = 0.5
    most_error: float = 4e-6
    bits: tuple[int, ...] = (*range(2, 17), UNENCODED_BIT)
    subchannels: int | None = None

    def __post_init__(self) -> None:
        check_weight(self, self.weight)
        if math.isnan(self.most_error) or self.most_error < 0:
            raise ValueError(f"SFLAM(most_error={self.most_error!r}) is not accepted: give a number of at least 0.")
        known = all(isinstance(bit, int) and (1 <= bit <= 16 or bit == UNENCODED_BIT) for bit in self.bits)
        if not (self.bits and known):
            raise ValueError(f"SFLAM(bits={self.bits!r}) is not accepted: give integers from 1 to 16, or 32.")
        check_subchannels(self, self.subchannels)

    def decide(self, seen: Observation) -> Decision:
        """See :meth:`Policy.decide`."""
        return decided(plan(self, seen, self.weight, self.bits, self.most_error), self.subchannels)


def decided(found: Plan, subchannels: int | None) -> Decision:
    """The powers and the subchannels that cost least."""
    if found.sending is None:
        return found.unchanged()
    total = whole_subchannels(found, subchannels)
    shared = share(found.sending, found.total_hz / total, total)
    return found.decision(shared.sent.airtime, shared.band_hz, shared.costs, shared.bound)


def whole_subchannels(found: Plan, subchannels: int | None) -> int:
    """How many there are; an InfeasibleError where they do not go round."""
    clients = found.seen.clients
    if subchannels is None:
        return _SUBCHANNELS_EACH * len(clients)
    if subchannels < len(clients):
        raise InfeasibleError(
            f"subchannels={subchannels} are too few for {len(clients)} clients: each needs one, and client"
            f" {clients[subchannels]} would have none."
        )
    return subchannels


def check_weight(policy: object, weight: float) -> None:
    """Raise a ValueError for a weight that is not accepted."""
    if not 0.0 < weight <= 1.0:
        raise ValueError(
            f"{type(policy).__name__}(weight={weight!r}) is not accepted: give a number above 0 and at most 1."
        )


def check_subchannels(policy: object, subchannels: int | None) -> None:
    """Raise a ValueError for a number of subchannels that is not accepted."""
    if subchannels is not None and subchannels < 1:
        raise ValueError(
            f"{type(policy).__name__}(subchannels={subchannels!r}) is not accepted: give an integer of at least 1, or"
            " None."
        )
