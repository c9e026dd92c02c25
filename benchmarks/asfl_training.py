"""ASFL against five baselines and fixed cuts, in real training on simulated time and energy.

    python benchmarks/asfl_training.py --output runs/policies

On digits and on 5,000 images of CIFAR-10, with small networks of five cuts (``training_tasks.py``): 20 clients of
``wei_chen``, IID, batches of 16, rounds of 15 steps (in split learning turns of as many), a decision with every round.
FedAvg has no cut; split learning, SplitFed-V1 and V2 stand at the middle one, where policies begin, as the first round
is nobody's decision; or, with ``--start fastest``, at the cut that makes a round shortest, by the seconds of the runs
at fixed cuts. The five baselines are our choice, as the paper's are not known. Best of the fixed cuts of
``splitfed_shared`` is that which reaches the target soonest, in hindsight.

ASFL's budgets for a round: 1.5 times the delay and .3 times every client's energy of latency-only (``ASFL``), reckoned
with layers that move apart or (``in the broadcast``) within it; and 1.0 times the delay and .5 times the energy of the
best fixed cut (``at best fixed's``), as means over whole runs, the first round included, whose joules are printed by
themselves. Joules are those of all clients. Every run ends when it has reached the target. A run that is in the folder
already is not made again.

Speeds are brought to the network's size by the FLOP of a forward pass, bandwidths by its weights, as in
``hasfl_training.py``, or by what the first convolution gives (``--sized-by``): a small network has far fewer weights
for what it gives, so that either weights or smashed data weigh otherwise than in the paper's. Signal-to-noise ratios
are kept.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from hasfl_training import span
from quiet import quiet
from training_runs import CLIENTS, MEASURED_EVERY, STEPS_PER_ROUND, Curve, Training, made
from training_tasks import TASKS

from lightning_sfl.policies import ASFL, LatencyOnly, Myopic, Policy
from lightning_sfl.world.channel.fading import FastRayleigh
from lightning_sfl.world.channel.wireless import Bandwidth, OwnBandwidth, WirelessChannel
from lightning_sfl.world.environments import Environment, make_environment

BATCH, COHERENCE_S = 16, 0.01
BASELINES = ("FedAvg", "split learning", "SplitFed-V1", "SplitFed-V2", "latency only")
FADINGS, SIZES, STARTS = ("block", "fast"), ("weights", "features"), ("middle", "fastest")
_CUT_ALGORITHMS = {
    "split learning": "split_learning",
    "SplitFed-V1": "splitfed_v1",
    "SplitFed-V2": "splitfed_v2",
}
_ONE_BY_ONE = ("split_learning", "splitfed_v2")
_DELAY, _ENERGY = 1.5, 0.3  # of latency-only's
_DELAY_OF_FIXED, _ENERGY_OF_FIXED = 1.0, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are made and kept."""

    folder: Path
    task: str
    fading: str
    sized_by: str
    start: str

    def run(
        self,
        name: str,
        seed: int,
        algorithm: str = "splitfed_shared",
        cut: str | None = None,
        policy: Policy | None = None,
    ) -> Curve:
        """A run, at the middle cut unless another one is given."""
        file = f"{self.task}-{self.fading}-{self.sized_by}-{name.replace(' ', '_')}-seed{seed}"
        return made(self.folder / "asfl", file, functools.partial(self._training, seed, algorithm, cut, policy))

    def _training(self, seed: int, algorithm: str, cut: str | None, policy: Policy | None) -> Training:
        task = TASKS[self.task]
        turns = CLIENTS if algorithm in _ONE_BY_ONE else 1  # a step is one client's there
        return Training(
            task=task,
            environment=self._environment(seed),
            seed=seed,
            steps=task.rounds * STEPS_PER_ROUND * turns,
            measured_every=MEASURED_EVERY * turns,
            batch_size=BATCH,
            algorithm=algorithm,
            cut=None if algorithm == "fedavg" else cut or task.middle_cut,
            policy=policy,
            until=task.target,
        )

    def _environment(self, seed: int) -> Environment:
        """``wei_chen``, its speeds and bandwidths brought to the network's size."""
        size = TASKS[self.task].size
        slower, narrower = size.flop, size.weights if self.sized_by == "weights" else size.features
        found = make_environment("wei_chen", CLIENTS, seed)
        channel = found.channel
        assert isinstance(channel, WirelessChannel)
        channel = dataclasses.replace(
            channel,
            uplink_bandwidth=_narrowed(channel.uplink_bandwidth, narrower),
            downlink_bandwidth=_narrowed(channel.downlink_bandwidth, narrower),
            noise_watt_per_hz=channel.noise_watt_per_hz / narrower,
            fading=channel.fading if self.fading == "block" else FastRayleigh(coherence_s=COHERENCE_S, seed=seed),
        )
        return Environment(
            fleet=dataclasses.replace(found.fleet, flop_per_cycle=slower * found.fleet.flop_per_cycle),
            channel=channel,
            server=dataclasses.replace(found.server, flop_per_cycle=slower * found.server.flop_per_cycle),
        )


def _narrowed(band: Bandwidth, share: float) -> OwnBandwidth:
    assert isinstance(band, OwnBandwidth)
    return OwnBandwidth(bandwidth_hz=share * band.bandwidth_hz)


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--fadings", nargs="+", choices=FADINGS, default=("block",))
    parser.add_argument("--sized-by", choices=SIZES, default="weights")
    parser.add_argument("--start", choices=STARTS, default="middle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    for task in options.tasks:
        for fading in options.fadings:
            place = Place(
                folder=options.output, task=task, fading=fading, sized_by=options.sized_by, start=options.start
            )
            print_table(place, curves(place, options.seeds))


def curves(place: Place, seeds: int) -> dict[str, list[Curve]]:
    """The curves of everything that is compared, a seed each."""
    found: dict[str, list[Curve]] = {}
    for seed in range(seeds):
        for name, curve in _of_seed(place, seed).items():
            found.setdefault(name, []).append(curve)
    return found


def _of_seed(place: Place, seed: int) -> dict[str, Curve]:
    task = TASKS[place.task]
    fixed = {cut: place.run(f"fixed {cut}", seed, cut=cut) for cut in task.cuts}
    best = min(fixed.values(), key=lambda curve: curve.seconds_to(task.target))
    fastest = min(fixed, key=lambda cut: fixed[cut].seconds[-1] / fixed[cut].step[-1])

    def run(name: str, algorithm: str = "splitfed_shared", policy: Policy | None = None) -> Curve:
        if place.start == "middle":
            return place.run(name, seed, algorithm, policy=policy)
        return place.run(f"{name} from fastest", seed, algorithm, cut=fastest, policy=policy)

    found = {"FedAvg": place.run("FedAvg", seed, "fedavg")}
    found |= {name: run(name, algorithm) for name, algorithm in _CUT_ALGORITHMS.items()}
    fast = found["latency only"] = run("latency only", policy=LatencyOnly())
    found["best fixed cut"] = best
    budgets = _budgets(fast, _DELAY, _ENERGY)
    found["ASFL"] = run("ASFL", policy=ASFL(**budgets))
    found["ASFL, in the broadcast"] = run("ASFL broadcast", policy=ASFL(**budgets, resplit=False))
    found["myopic"] = run("myopic", policy=Myopic(**budgets))
    budgets = _budgets(best, _DELAY_OF_FIXED, _ENERGY_OF_FIXED)
    found["ASFL, at best fixed's"] = run("ASFL at best fixed", policy=ASFL(**budgets))
    return found


class _Budgets(TypedDict):
    delay_budget_s: float
    energy_budget_joule: list[float]


def _budgets(curve: Curve, delay: float, energy: float) -> _Budgets:
    """Shares of what a run took in a round."""
    rounds = curve.step[-1] / STEPS_PER_ROUND
    return _Budgets(
        delay_budget_s=delay * curve.seconds[-1] / rounds,
        energy_budget_joule=[energy * joule / rounds for joule in curve.client_joule],
    )


def print_table(place: Place, found: Mapping[str, Sequence[Curve]]) -> None:
    """A row per policy or algorithm, and what ASFL saves."""
    target, seeds = TASKS[place.task].target, len(found["ASFL"])
    print(f"\n{place.task}, {place.fading} fading, sized by {place.sized_by}, from the {place.start} cut,", end=" ")
    print(f"{seeds} seeds, target {target:.0%}")
    print(f"{'':>24} {'s to target':>28} {'J to target':>28} {'missed':>7}")
    for name, each in found.items():
        seconds, joule = [c.seconds_to(target) for c in each], [c.joule_to(target) for c in each]
        missed = sum(not math.isfinite(value) for value in seconds)
        print(f"{name:>24} {span(seconds):>28} {span(joule):>28} {missed:>7}")
    for ours in (name for name in found if name.startswith("ASFL")):
        first = [curve.joule[curve.step.index(STEPS_PER_ROUND)] for curve in found[ours]]
        print(f"    {ours}: {span(first)} J in the first round")
        for what, to in (("delay", Curve.seconds_to), ("energy", Curve.joule_to)):
            print(f"    {ours} saves of {what}, %: {_savings(found, ours, target, to)}")


def _savings(
    found: Mapping[str, Sequence[Curve]], ours: str, target: float, to: Callable[[Curve, float], float]
) -> str:
    """Against the worst and the median of five baselines, and against the best fixed cut, medians over seeds.

    Baselines that miss the target are left out.
    """

    def saved(theirs: Callable[[int], float]) -> str:
        pairs = [(to(curve, target), theirs(seed)) for seed, curve in enumerate(found[ours])]
        return span([100 * (1 - own / other) for own, other in pairs if math.isfinite(own) and math.isfinite(other)])

    def of_baselines(pick: Callable[[list[float]], float]) -> Callable[[int], float]:
        def picked(seed: int) -> float:
            taken = [to(found[name][seed], target) for name in BASELINES]
            return pick([value for value in taken if math.isfinite(value)])

        return picked

    return (
        f"{saved(of_baselines(max))} of the worst, {saved(of_baselines(lambda v: float(np.median(v))))} of the median,"
        f" {saved(lambda seed: to(found['best fixed cut'][seed], target))} of the best fixed cut's"
    )


if __name__ == "__main__":
    main()
