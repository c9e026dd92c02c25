"""What costing takes: one round of many clients with different cuts, and a long trace under block fading.

    python benchmarks/world.py

CPU seconds of all threads, as medians; nothing here uses more than one. A round is its beginning, its steps and its
end. The trace draws a channel gain per client and round, costs the round and advances the clock.
"""

import argparse
import dataclasses
import statistics
import time

import numpy as np

from lightning_sfl.random import generator
from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.channel.channel import Transmission
from lightning_sfl.world.cost.clock import Clock
from lightning_sfl.world.cost.participation import Participation
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

ROUND_BAR_S = 0.020
TRACE_BAR_S = 10.0
CUTS = 16
STEPS = 15
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--trace_clients", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--trace_runs", type=int, default=3)
    options = parser.parse_args()
    print(f"{'what':>52} {'median':>12} {'bar':>10}")
    for algorithm in ("splitfed_shared", "splitfed_v1", "fedavg"):
        seconds = statistics.median(round_seconds(algorithm, options.clients, options.runs))
        what = f"one round of {options.clients:,} clients, {algorithm}"
        print(f"{what:>52} {1e3 * seconds:>9.2f} ms {1e3 * ROUND_BAR_S:>7.0f} ms")
    seconds = statistics.median(trace_seconds(options.trace_clients, options.rounds) for _ in range(options.trace_runs))
    what = f"{options.rounds:,} rounds of {options.trace_clients:,} clients, block fading"
    print(f"{what:>52} {seconds:>10.2f} s {TRACE_BAR_S:>8.0f} s")


def round_seconds(algorithm: str, clients: int, runs: int) -> list[float]:
    """Seconds of costing one round, run by run, each with other cuts."""
    world = make_world(algorithm, clients)
    found = []
    for run in range(runs):
        who = participation(clients, run)
        start = time.process_time()
        cost = world.round(who, round=run)
        assert cost.total_s > 0
        assert cost.compute_joule.sum() > 0
        found.append(time.process_time() - start)
    return found


def trace_seconds(clients: int, rounds: int) -> float:
    """Seconds of a trace."""
    world, clock = make_world("splitfed_shared", clients), Clock()
    choices = [participation(clients, run) for run in range(10)]
    start = time.process_time()
    for round in range(rounds):
        clock.advance(world.round(choices[round % 10], round=round, start_s=clock.seconds))
    return time.process_time() - start


def participation(clients: int, run: int) -> Participation:
    """All clients, with cuts and batch sizes drawn for a run."""
    draw = generator(SEED, "benchmark participation", run)
    return Participation(
        clients=np.arange(clients), cut=draw.integers(0, CUTS, clients), batch_size=draw.integers(1, 65, clients)
    )


def make_world(algorithm: str, clients: int) -> World:
    """A model of 16 cuts, devices and gains that differ."""
    draw = generator(SEED, "benchmark world")
    return World(
        profile=make_profile(),
        fleet=Fleet(
            clock_hz=draw.uniform(1e8, 2e9, clients),
            transmit_power_watt=np.full(clients, 0.2),
            memory_byte=np.full(clients, np.inf),
        ),
        channel=FadingChannel(gain=draw.uniform(1e-12, 1e-10, clients)),
        server=Server(),
        algorithm=algorithm,
        aggregate_every=STEPS,
    )


# Stand-ins for the parts that a world is made of.


def line(start: float, end: float) -> FloatArray:
    """A quantity that grows with the batch size alone, from the first cut to the last."""
    return np.stack([np.zeros(CUTS), np.linspace(start, end, CUTS)], axis=1)


def make_profile() -> Profile:
    """About ResNet-18 on small images; the uncut model is as the deepest cut."""
    parameters = np.linspace(2e3, 1.1e7, CUTS).astype(np.int64)
    profile = Profile(
        cuts=tuple(f"layer{cut}" for cut in range(CUTS)),
        client_forward_flop=line(3.5e6, 1.1e9),
        client_backward_flop=line(3.5e6, 2.2e9),
        server_forward_flop=line(1.1e9, 3.5e6),
        server_backward_flop=line(2.2e9, 7e6),
        smashed_element=line(65536, 8192),
        smashed_bit=line(2097152, 262144),
        cut_gradient_bit=line(2097152, 262144),
        beside_bit=line(64, 64),
        client_parameters=parameters,
        client_parameter_byte=4.0 * parameters,
        client_buffer_byte=np.zeros(CUTS),
        update_parameters=parameters,
        update_bit=32.0 * parameters,
        optimizer_state_bit=32.0 * parameters,
        client_training_memory_line=line(1e6, 1e8)[:, None],
        client_forward_memory_line=line(1e6, 1e7)[:, None],
        batch_byte=np.zeros(2),
        whole=None,
    )
    last = {field.name: getattr(profile, field.name)[-1:] for field in dataclasses.fields(Profile)[:-2]}
    return dataclasses.replace(profile, whole=Profile(**last, batch_byte=profile.batch_byte, whole=None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices of 16 FLOP per cycle."""

    clock_hz: FloatArray
    transmit_power_watt: FloatArray
    memory_byte: FloatArray

    def flop_per_s(self, clients: IntArray, clock_hz: FloatArray | None = None, round: int = 0) -> FloatArray:
        """Clock times FLOP per cycle."""
        return 16 * self.clock_hz[clients]

    def compute_watt(self, clients: IntArray, clock_hz: FloatArray | None = None) -> FloatArray:
        """G f³."""
        return 1e-28 * self.clock_hz[clients] ** 3

    def check(self, num_clients: int) -> None:
        """Always large enough."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """20 TFLOP/s."""

    transmit_power_watt: float = 1.0
    works: str = "serial"
    inter_server_bit_per_s: float | None = 370e6

    def flop_per_s(self) -> float:
        """How fast it computes."""
        return 20e12

    def compute_watt(self) -> float:
        """What that takes."""
        return 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FadingChannel:
    """Shannon's rate on 1 MHz each, with one Rayleigh draw per client, direction and round."""

    gain: FloatArray
    varies_within_round: bool = False

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """What a client sends with 0.2 W."""
        return self._rate(seen, "up", 0.2)

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """What the server sends with 1 W."""
        return self._rate(seen, "down", 1.0)

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Bits by rate."""
        return bit / self.uplink_bit_per_s(sent)

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """Bits by rate."""
        return bit / self.downlink_bit_per_s(sent)

    def check(self, num_clients: int) -> None:
        """Always large enough."""

    def _rate(self, seen: Transmission, direction: str, watt: float) -> FloatArray:
        fading = generator(SEED, f"benchmark fading {direction}", seen.round).exponential(size=len(self.gain))
        received = watt * self.gain[seen.clients] * fading[seen.clients]
        return 1e6 * np.log2(1 + received / (1e6 * 4e-21))


if __name__ == "__main__":
    main()
