"""What probing asks in the place of a backward pass: the cost of clients that run forward only."""

import dataclasses

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.rules import Probing

SCALAR_BIT = 32
"""One probe's result, a float32 (HO-SFL, arXiv 2603.14773)."""

SEED_BIT = 64
"""One probe's seed."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """What a step asks of clients that probe; entry i of every array is the i-th of those that take part.

    Attributes:
        forward: Forward passes before the uplink, the server's as well.
        later: Forward passes of the client after the downlink.
        sent: How often smashed data cross.
        server_backward: Backward passes of the server.
        gradient: How often the cut gradient comes back.
        uplink_bit: Scalars.
        downlink_bit: Seeds and scalars.
    """

    forward: FloatArray
    later: FloatArray
    sent: FloatArray
    server_backward: float
    gradient: float
    uplink_bit: FloatArray
    downlink_bit: FloatArray


def probed(probing: Probing, probes: int, trains: BoolArray, depth: IntArray) -> Probed:
    """What P probes ask.

    A client that trains nothing has nothing to probe; where nobody backpropagates the server's weights are moved all
    the same. Means come back once for every different cut that is not behind the client's own. A reconstruction.

    Args:
        probing: What a client does for a direction.
        probes: P.
        trains: Whether anything is trained before the client's cut.
        depth: How many different cuts are not behind its own.
    """
    moves = np.where(trains | (not probing.anchored), float(probing.passes * probes), 0.0)
    passes = moves + (1.0 if probing.anchored else 0.0)
    crosses = probing.crosses
    return Probed(
        forward=passes if crosses else np.ones_like(moves),
        later=np.zeros_like(moves) if crosses else moves,
        sent=passes if crosses else np.ones_like(moves),
        server_backward=float(probing.anchored),
        gradient=float(probing.returns_gradient),
        uplink_bit=np.where(trains & (not crosses), float(SCALAR_BIT * probes), 0.0),
        downlink_bit=np.where(trains, float(probes) * (SEED_BIT + SCALAR_BIT * depth), 0.0),
    )


def missed_bit(probes: int, steps: IntArray, depth: IntArray) -> FloatArray:
    """The (seed, scalar) pairs of the steps that a client was away."""
    return np.asarray(steps * probes * (SEED_BIT + SCALAR_BIT * depth), dtype=np.float64)


def depth_of(cut: IntArray) -> IntArray:
    """How many different cuts are not behind each client's own."""
    return np.unique(cut, return_inverse=True)[1].reshape(-1) + 1
