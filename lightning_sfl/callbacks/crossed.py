"""What crossed the link since one last looked, by client and by the stage that it belongs to."""

import dataclasses

import numpy as np

from lightning_sfl.link.message import MessageKind
from lightning_sfl.link.meter import Meter
from lightning_sfl.world.arrays import FloatArray, IntArray

_OF_ROUNDS = (
    MessageKind.BROADCAST,
    MessageKind.CLIENT_UPDATE,
    MessageKind.OPTIMIZER_STATE,
    MessageKind.MISSED_PAIRS,
    MessageKind.MOVED_LAYERS,
)
_OF_TURNS = (MessageKind.SERVER_OUTPUT, MessageKind.OUTPUT_GRADIENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crossed:
    """Payload bits; entry i of every array is the i-th client.

    Attributes:
        step_up: In steps, from the client: smashed data, labels, masks, scalars.
        step_down: In steps, to it: cut gradients, seeds, scalars.
        scalars_up: Of the former, its scalars.
        turn_down: In steps of a U-shape, to it: what the server gives back at the second cut.
        turn_up: In steps of a U-shape, from it: the gradient of that.
        round_up: At a round's end, from it: its update, with optimizer state.
        round_down: At a round's beginning, to it: the broadcast, with optimizer state, or what it missed.
        handed_over: Between the servers, since cuts moved; one number.
    """

    step_up: FloatArray
    step_down: FloatArray
    scalars_up: FloatArray
    turn_down: FloatArray
    turn_up: FloatArray
    round_up: FloatArray
    round_down: FloatArray
    handed_over: float

    @property
    def up(self) -> FloatArray:
        """All that came from the client."""
        total: FloatArray = self.step_up + self.turn_up + self.round_up
        return total

    @property
    def down(self) -> FloatArray:
        """All that went to it."""
        total: FloatArray = self.step_down + self.turn_down + self.round_down
        return total


class CrossedSince:
    """Looks at a meter again and again."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._seen: dict[int, dict[tuple[MessageKind, bool], int]] = {}
        self._handed_over = 0

    def look(self, clients: IntArray) -> Crossed:
        """What these clients sent and received since the last look at them."""
        bits, scalars_up = np.zeros((6, len(clients))), np.zeros(len(clients))
        for place, client in enumerate(clients.tolist()):
            now = self._meter.payload_bit_of(client)
            before = self._seen.get(client, {})
            for (kind, is_uplink), bit in now.items():
                row = 2 * (kind in _OF_ROUNDS) + 4 * (kind in _OF_TURNS) + (not is_uplink)
                since = bit - before.get((kind, is_uplink), 0)
                bits[row, place] += since
                scalars_up[place] += since if is_uplink and kind is MessageKind.SCALARS else 0
            self._seen[client] = now
        handed_over = self._meter.payload_bit_of(None).total()
        self._handed_over, newly = handed_over, handed_over - self._handed_over
        return Crossed(
            step_up=bits[0],
            step_down=bits[1],
            scalars_up=scalars_up,
            round_up=bits[2],
            round_down=bits[3],
            turn_up=bits[4],
            turn_down=bits[5],
            handed_over=float(newly),
        )
