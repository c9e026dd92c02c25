"""SFLAM by cost alone: a client's memory with the patch embedding, and latency against energy for SFLAM and baselines.

    python benchmarks/latency_energy.py

ViT-B/32 at 224 x 224, the patch embedding on the client, SGD with momentum, float32; 1 multiply-accumulate is 2 FLOP.
Memory is that of live tensors in a step, once with the batch and once without it. A round is:
20 steps of every client with batches of 64, a server replica each, optimizer state not sent; labels, the server's time
(one client after the other), broadcast and averaging count. Clients share one band; all that the uplink takes of it is
decided. SFLAM has the limit on the error of 8 bits. Medians and ranges over seeds of devices and gains.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import vit_b_32

from lightning_sfl import find_cuts
from lightning_sfl.allocation import Allocation
from lightning_sfl.policies.decision import check
from lightning_sfl.policies.equal_bandwidth import EqualBandwidth
from lightning_sfl.policies.fixed_bits import FixedBits
from lightning_sfl.policies.maximum_power import MaximumPower
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.sflam import SFLAM
from lightning_sfl.policies.statistics import assumed
from lightning_sfl.world.channel.seen import as_seen
from lightning_sfl.world.channel.wireless import SharedBandwidth, WirelessChannel
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

MEGABYTE = 1e6
CUT = "model.conv_proj"
STEPS, BATCH = 20, 64
BAND_HZ = {"wei_chen": 100e6, "safsl": 50e6}
WEIGHTS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)
POLICIES: dict[str, Callable[[float], SFLAM | FixedBits]] = {
    "SFLAM": lambda weight: SFLAM(weight=weight),
    "MaximumPower": lambda weight: MaximumPower(weight=weight),
    "EqualBandwidth": lambda weight: EqualBandwidth(weight=weight),
    "FixedBits(16)": lambda weight: FixedBits(weight=weight, bits=16),
    "FixedBits(32)": lambda weight: FixedBits(weight=weight),
}


class Vit(nn.Module):
    """ViT-B/32, built without weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model = vit_b_32(num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return cross_entropy(self.model(batch[0]), batch[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    profile = make_profile()
    print_memory(profile)
    for name in BAND_HZ:
        print_front(name, front(name, profile, options.clients, range(options.seeds)))


def print_memory(profile: Profile) -> None:
    """What a client holds with the embedding, and what one with the whole model would."""
    whole = profile.whole
    assert whole is not None
    print(f"{'batch':>6} {'embedding, MB':>15} {'without batch':>15} {'whole model, MB':>17} {'without batch':>15}")
    for size in (32, 64, 128):
        batch = profile.batch_byte[0] + profile.batch_byte[1] * size
        held = [float(each.training_memory_byte(np.array([0]), size)[0]) for each in (profile, whole)]
        columns = [value / MEGABYTE for each in held for value in (each, each - batch)]
        print(f"{size:>6} {columns[0]:>15.1f} {columns[1]:>15.1f} {columns[2]:>17.1f} {columns[3]:>15.1f}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What a policy comes to with one weight, a seed each.

    Attributes:
        policy: The policy.
        weight: w.
        round_s: What a round takes.
        client_joule: What all clients take in it.
        objective: The weighed sum.
    """

    policy: str
    weight: float
    round_s: Sequence[float]
    client_joule: Sequence[float]
    objective: Sequence[float]


def front(name: str, profile: Profile, clients: int, seeds: Sequence[int]) -> list[Point]:
    """Every policy with every weight."""
    found = []
    for policy, made in POLICIES.items():
        for weight in WEIGHTS:
            figures = []
            for seed in seeds:
                seen = observation(name, profile, clients, seed)
                decision = made(weight).decide(seen)
                check(made(weight), seen, decision)
                figures.append(decision.figures)
            found.append(
                Point(
                    policy=policy,
                    weight=weight,
                    round_s=[each["round_s"] for each in figures],
                    client_joule=[each["client_joule"] for each in figures],
                    objective=[each["objective"] for each in figures],
                )
            )
    return found


def print_front(name: str, points: Sequence[Point]) -> None:
    """A row per policy and weight."""
    print(f"\n{name}, {BAND_HZ[name] / 1e6:.0f} MHz shared, {len(points[0].round_s)} seeds")
    print(f"{'policy':>15} {'w':>4} {'round, s':>24} {'clients, J':>28} {'objective':>24}")
    for point in points:
        spans = [span(values) for values in (point.round_s, point.client_joule, point.objective)]
        print(f"{point.policy:>15} {point.weight:>4} {spans[0]:>24} {spans[1]:>28} {spans[2]:>24}")


def span(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


def observation(name: str, profile: Profile, clients: int, seed: int) -> Observation:
    """All clients cut at the first place and have a quantiser; channels as they are in the first round."""
    found = make_environment(name, clients, seed)
    assert isinstance(found.channel, WirelessChannel)
    band = SharedBandwidth(total_hz=BAND_HZ[name])
    channel = dataclasses.replace(found.channel, uplink_bandwidth=band, downlink_bandwidth=band)
    world = World(
        profile=profile,
        fleet=found.fleet,
        channel=as_seen(channel, clients, round=0, start_s=0.0),
        server=found.server,
        algorithm="splitfed_v1",
        aggregate_every=STEPS,
    )
    return Observation(
        round=0,
        rounds=1,
        world=world,
        clients=np.arange(clients),
        samples=np.full(clients, 500),
        cut=np.zeros(clients, dtype=np.int64),
        batch_size=np.full(clients, BATCH),
        bits=np.full(clients, 8.0),
        now=Allocation(cut=[profile.cuts[0]] * clients, batch_size=[BATCH] * clients),
        statistics=assumed(profile, profile.update_parameters.astype(np.float64)),
        learning_rate=0.01,
        sends_state=False,
    )


def make_profile() -> Profile:
    """The cut behind the patch embedding, as measured."""
    net, batch = Vit(), (torch.zeros(2, 3, 224, 224), torch.tensor([0, 1]))
    splits = {cut.name: cut.split for cut in find_cuts(net, batch) if cut.name == CUT}
    return profile_cuts(net, batch, splits, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9))


if __name__ == "__main__":
    main()
