"""A channel whose rates are given: measured ones, or those that a paper states."""

import dataclasses

import numpy as np

from lightning_sfl.random import normals
from lightning_sfl.world.arrays import FloatArray, count, per_client, read_only
from lightning_sfl.world.channel.channel import Transmission, refuse_allocation
from lightning_sfl.world.channel.fading import Direction
from lightning_sfl.world.checks import check, check_clients


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RateChannel:
    """A channel of given rates, steady within a round.

    Where a spread is given, each round's rate is drawn from the normal distribution of that mean and deviation, cut
    off at 0: what is not above 0 is drawn again. Its mean is then a little above the one given.

    Where a single number is given, it is every client's; ``mean_uplink_bit_per_s`` says how many clients there are.

    Args:
        mean_uplink_bit_per_s: Rate of each client towards the server.
        mean_downlink_bit_per_s: Rate from the server to each client.
        uplink_sigma_bit_per_s: Deviation of the uplink's rate from round to round.
        downlink_sigma_bit_per_s: The same for the downlink.
        seed: The seed of the spread.
    """

    mean_uplink_bit_per_s: FloatArray
    mean_downlink_bit_per_s: FloatArray
    uplink_sigma_bit_per_s: FloatArray = dataclasses.field(default_factory=lambda: read_only(0.0))
    downlink_sigma_bit_per_s: FloatArray = dataclasses.field(default_factory=lambda: read_only(0.0))
    seed: int = 0

    def __post_init__(self) -> None:
        clients = count("RateChannel", "mean_uplink_bit_per_s", self.mean_uplink_bit_per_s)
        for field in dataclasses.fields(self):
            if field.name != "seed":
                values = per_client("RateChannel", field.name, getattr(self, field.name), clients)
                object.__setattr__(self, field.name, check("RateChannel", field.name, values))

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Channel.varies_within_round`."""
        return False

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_s`."""
        return bit / self.uplink_bit_per_s(sent)

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_s`."""
        return bit / self.downlink_bit_per_s(sent)

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_bit_per_s`."""
        return self._rate(seen, self.mean_uplink_bit_per_s, self.uplink_sigma_bit_per_s, "uplink")

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_bit_per_s`."""
        return self._rate(seen, self.mean_downlink_bit_per_s, self.downlink_sigma_bit_per_s, "downlink")

    def on_average(self) -> "RateChannel":
        """See :meth:`Channel.on_average`: the means that were given, though cutting off at 0 makes more of them."""
        return RateChannel(
            mean_uplink_bit_per_s=self.mean_uplink_bit_per_s, mean_downlink_bit_per_s=self.mean_downlink_bit_per_s
        )

    def check(self, num_clients: int) -> None:
        """See :meth:`Channel.check`."""
        check_clients("RateChannel", len(self.mean_uplink_bit_per_s), num_clients)

    def _rate(self, seen: Transmission, means: FloatArray, sigmas: FloatArray, direction: Direction) -> FloatArray:
        refuse_allocation("RateChannel", seen)
        mean, sigma = means[seen.clients], sigmas[seen.clients]
        rate = np.where(sigma > 0.0, 0.0, mean)
        attempt = 0
        while not np.all(drawn := rate > 0.0):
            again = np.flatnonzero(~drawn)
            clients = seen.clients[again]
            number = normals(int(clients.max()) + 1, self.seed, f"rates {direction}", seen.round, attempt)[clients]
            rate[again] = mean[again] + sigma[again] * number
            attempt += 1
        return rate
