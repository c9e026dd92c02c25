"""What the round at hand has cost so far."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundSums:
    """Sums over a round; they are part of a checkpoint.

    Attributes:
        began_s: The simulated time at its beginning.
        client_joule: What all clients together took.
        server_joule: What the server took.
        uplink_bit: Payload of all clients, up.
        downlink_bit: Payload of all clients, down.
    """

    began_s: float = 0.0
    client_joule: float = 0.0
    server_joule: float = 0.0
    uplink_bit: float = 0.0
    downlink_bit: float = 0.0

    def plus(self, *, client_joule: float, server_joule: float, uplink_bit: float, downlink_bit: float) -> "RoundSums":
        """With what a step of the round has cost."""
        return RoundSums(
            began_s=self.began_s,
            client_joule=self.client_joule + client_joule,
            server_joule=self.server_joule + server_joule,
            uplink_bit=self.uplink_bit + uplink_bit,
            downlink_bit=self.downlink_bit + downlink_bit,
        )

    def metrics(self, now_s: float) -> dict[str, float]:
        """What is logged of a round that ends now."""
        return {
            "delay/round_s": now_s - self.began_s,
            "delay/simulated_s": now_s,
            "energy/client_joule": self.client_joule,
            "energy/server_joule": self.server_joule,
            "comm/uplink_bytes": self.uplink_bit / 8,
            "comm/downlink_bytes": self.downlink_bit / 8,
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain Python."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "RoundSums":
        """What :meth:`state_dict` gave."""
        return cls(**state)
