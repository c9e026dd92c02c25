"""What a policy sees when it is asked for a decision."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from lightning_sfl.allocation import UNENCODED_BIT, Allocation
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.channel.wireless import SharedBandwidth, WirelessChannel
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.cost.step_cost import AS_BUILT, Controls
from lightning_sfl.world.world import World


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Passed:
    """What a round that has ended cost.

    Attributes:
        round: The round.
        delay_s: How long it took.
        clients: Who took part, (K,).
        joule: What computing and sending took of each of them, (K,).
    """

    round: int
    delay_s: float
    clients: IntArray
    joule: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Radio:
    """What the uplink gives to allocate; entry i of every array is the i-th of the observation's clients.

    Attributes:
        gain_to_noise_hz_per_watt: |h|²/N0: bandwidth times signal-to-noise ratio, per watt sent, (K,).
        most_watt: Highest transmit power, (K,).
        total_hz: The band that all share; None: each has its own.
        own_hz: What each has without an allocation, (K,).
    """

    gain_to_noise_hz_per_watt: FloatArray
    most_watt: FloatArray
    total_hz: float | None
    own_hz: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """What is known when a decision is due; entry i of every array is the i-th of ``clients``.

    Attributes:
        round: The first round that the decision is for.
        rounds: For how many rounds it is.
        world: What things cost, with the channel as it is seen now, or its means (``seen.CSI``).
        clients: Those who take part in these rounds, (K,). All of them are counted with in each.
        samples: What each holds, (K,); a batch is never larger.
        cut: Where each cuts now, an index into the profile's cuts, (K,).
        batch_size: Its samples per step now, (K,).
        bits: Its bits per element of what its quantiser is for (``world.quantised``) now, (K,); None: nobody has one.
        controls: Its power, clock and bandwidth now.
        now: What every registered client has; its cuts and batch sizes are there in any case.
        statistics: What is known of the gradients.
        learning_rate: Step size γ of the optimizer.
        sends_state: Whether optimizer state goes with the weights.
        passed: The rounds since the last decision.
        memory: What the policy put into its last decision; empty at first.
    """

    round: int
    rounds: int
    world: World
    clients: IntArray
    samples: IntArray
    cut: IntArray
    batch_size: IntArray
    bits: FloatArray | None = None
    controls: Controls = AS_BUILT
    now: Allocation
    statistics: GradientStatistics
    learning_rate: float
    sends_state: bool = True
    passed: Sequence[Passed] = ()
    memory: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def deepest_of_others(self) -> int:
        """The deepest cut of those registered clients that take no part, who keep theirs; 0 where all do."""
        taking_part = set(self.clients.tolist())
        names = {name for client, name in enumerate(self.now.cut or ()) if client not in taking_part}
        return int(self.world.profile.index(sorted(names)).max()) if names else 0

    @property
    def radio(self) -> Radio | None:
        """What the uplink gives to allocate; None where rates are given."""
        channel = self.world.channel
        if not isinstance(channel, WirelessChannel):
            return None
        bandwidth = channel.uplink_bandwidth
        return Radio(
            gain_to_noise_hz_per_watt=channel.uplink_gain[self.clients] / channel.noise_watt_per_hz,
            most_watt=channel.client_power_watt[self.clients],
            total_hz=bandwidth.total_hz if isinstance(bandwidth, SharedBandwidth) else None,
            own_hz=bandwidth.hz(self.clients),
        )

    def participation(
        self,
        cut: IntArray | None = None,
        batch_size: IntArray | None = None,
        bits: FloatArray | None = None,
        controls: Controls | None = None,
    ) -> Participation:
        """All clients with what they are to be given; what is None is as it is now. For the questions of a world."""
        return Participation(
            clients=self.clients,
            cut=self.cut if cut is None else cut,
            batch_size=self.batch_size if batch_size is None else batch_size,
            bits=self.bits if bits is None else bits,
            controls=self.controls if controls is None else controls,
        )

    def allocation(
        self,
        *,
        cut: IntArray | None = None,
        batch_size: IntArray | None = None,
        bits: IntArray | None = None,
        transmit_power_watt: FloatArray | None = None,
        clock_hz: FloatArray | None = None,
        bandwidth_hz: FloatArray | None = None,
    ) -> Allocation:
        """The allocation that gives the clients this, (K,) each, and leaves everybody else what they have.

        Args:
            cut: Indices into the profile's cuts.
            batch_size: Samples per step.
            bits: Bits per element.
            transmit_power_watt: Transmit powers.
            clock_hz: Clocks.
            bandwidth_hz: Bandwidths.

        Raises:
            ValueError: There is not one entry for each, or a cut that is not in the profile.
        """
        fields: dict[str, IntArray | FloatArray | None] = {
            "cut": cut,
            "batch_size": batch_size,
            "bits": bits,
            "transmit_power_watt": transmit_power_watt,
            "clock_hz": clock_hz,
            "bandwidth_hz": bandwidth_hz,
        }
        given = {name: cast(IntArray, np.asarray(values)) for name, values in fields.items() if values is not None}
        who, names = self.participation(), self.world.profile.cuts
        for name, values in given.items():
            who.check_shape(name, values)
        spread = {name: self._spread(name, values.tolist()) for name, values in given.items() if name != "cut"}
        if "cut" in given:
            known = np.isin(given["cut"], np.arange(len(names)))
            who.refuse("cut", given["cut"], known, f"one of {len(names)} cuts, counted from 0")
            spread["cut"] = self._spread("cut", [names[int(place)] for place in given["cut"]])
        return Allocation(**spread)

    def _spread(self, field: str, values: Sequence[Any]) -> list[Any]:
        """One entry for every registered client; those who take no part keep what they have."""
        held = getattr(self.now, field)
        spread = self._as_built(field) if held is None else list(held)
        for client, value in zip(self.clients.tolist(), values, strict=True):
            spread[client] = value
        return spread

    def _as_built(self, field: str) -> list[Any]:
        """What registered clients have of something that nobody was ever given."""
        everybody = np.arange(len(self.now.batch_size or ()))
        channel, fleet = self.world.channel, self.world.fleet
        if field == "bits":
            return [UNENCODED_BIT] * len(everybody)
        if field == "clock_hz":
            return list(fleet.clock_hz[everybody].tolist())
        if not isinstance(channel, WirelessChannel):
            raise ValueError(
                f"{field} is allocated, but the rates of {type(channel).__name__} are given and do not depend on it:"
                " leave it out, or use WirelessChannel."
            )
        given = channel.client_power_watt[everybody]
        return list((given if field == "transmit_power_watt" else channel.uplink_bandwidth.hz(everybody)).tolist())
