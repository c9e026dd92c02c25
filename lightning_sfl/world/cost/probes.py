"""What probing asks in the place of a backward pass: the cost of clients that run forward only."""

import dataclasses

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.cost.rules import Probing
from lightning_sfl.world.model.profile import Profile, at

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


def probing_memory_byte(profile: Profile, probing: Probing, cut: IntArray, batch_size: IntArray) -> FloatArray:
    """What a step takes at most of the memory of clients that probe there, (K,); the most of three moments.

    While it probes, a client holds moved weights beside the others, the optimizer's state, and where a cut gradient
    comes back, that and its smashed data. A reconstruction.
    """
    gradient_bit = at(profile.cut_gradient_bit[cut], batch_size)
    smashed_bit = at(profile.smashed_bit[cut], batch_size)
    compared_byte = (smashed_bit + gradient_bit) / 8 if probing.returns_gradient else 0.0
    state_byte = profile.optimizer_state_bit[cut] / 8
    moved = profile.update_parameters[cut] / np.maximum(profile.client_parameters[cut], 1)
    forward_byte = profile.forward_memory_byte(cut, batch_size)
    probing_byte = forward_byte + compared_byte + state_byte + moved * profile.client_parameter_byte[cut]
    # Afterwards: what was moved and as it was, the gradient, and the difference that meets it.
    own_byte = profile.client_parameter_byte[cut] + profile.client_buffer_byte[cut]
    comparing_byte = own_byte + at(profile.batch_byte, batch_size) + state_byte + 2 * compared_byte
    # At last the optimizer's step on the estimate, which in training is what a batch of nothing takes.
    stepping_byte = profile.training_memory_byte(cut, 0) + profile.batch_byte[1] * batch_size
    most_byte = np.maximum(np.maximum(probing_byte, comparing_byte), stepping_byte)
    return np.where(gradient_bit > 0, most_byte, forward_byte)
