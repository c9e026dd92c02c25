"""ASFL by cost alone: total delay and energy to the bound's number of rounds, beside five baselines.

    python benchmarks/asfl_by_cost.py

A model like VGG-16 on images of 32x32 (1 MAC = 2 FLOP, 32-bit numbers, backward twice forward), 20 clients, 15 steps a
round, no training. Of every run the mean delay and energy of a round are measured over some rounds; the bound of
``policies/bound.py`` says how many steps it takes with the drift that the run had on average. Energy is that of all
clients. FedAvg, split learning and SplitFed stand at a middle cut and at their best one in hindsight; the baselines
themselves are our choice, as the paper's are not known.
"""

import argparse
import dataclasses
import functools

import numpy as np

from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.fixed import Fixed
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.myopic import Myopic
from lightning_sfl.policies.simulation import Scene, Trace, best_fixed_cut, simulate
from lightning_sfl.policies.statistics import GradientStatistics
from lightning_sfl.world.environments import make_environment
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.world import World

CLIENTS, STEPS, BATCH, SEED = 20, 15, 32, 0
LEARNING_RATE, TARGET, SMOOTHNESS = 5e-4, 1.0, 10.0
DRIFT_SHARE, VARIANCE_SHARE = 0.5, 0.1  # of the target, by the drift of the whole model and by the variance

# Name, forward MFLOP, parameters, activations in KiB per sample, up to a cut.
VGG16 = (
    ("conv1", 3.5, 1_800, 256),
    ("conv2", 79, 38_700, 64),
    ("conv3", 117, 113_000, 128),
    ("conv4", 192, 260_000, 32),
    ("conv7", 381, 1_740_000, 16),
    ("conv10", 570, 7_640_000, 8),
    ("conv13", 626, 14_700_000, 2),
)
WHOLE = ("whole", 627.4, 15_245_000, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--environments", nargs="+", default=["wei_chen", "safsl"])
    options = parser.parse_args()
    for name in options.environments:
        print(f"\n{name}: {CLIENTS} clients, {options.rounds} rounds measured, seed {SEED}")
        print(f"{'policy':>44} {'s/round':>10} {'J/round':>10} {'rounds':>8} {'total s':>12} {'total J':>12}")
        compare(name, options.rounds)


def compare(environment: str, rounds: int) -> None:
    """One table."""
    found: dict[str, tuple[float, float]] = {}
    for algorithm in ("fedavg", "split_learning", "splitfed_v1", "splitfed_v2", "splitfed_shared"):
        scene = make_scene(environment, algorithm)
        turns = rounds * (CLIENTS if algorithm == "split_learning" else 1)
        if algorithm != "fedavg":
            best, trace = best_fixed_cut(_fixed, scene, turns, functools.partial(_seconds, scene))
            found[f"{algorithm}, best fixed cut {best}"] = show(f"{algorithm}, best fixed cut {best}", scene, trace)
        label = algorithm if algorithm == "fedavg" else f"{algorithm}, conv4"
        found[label] = show(label, scene, simulate(Fixed(cut="conv4"), scene, turns))
    scene = make_scene(environment, "splitfed_shared")
    for resplits in (False, True):
        scene = dataclasses.replace(scene, resplits=resplits)
        suffix = "re-split apart" if resplits else "re-split in the broadcast"
        fast = simulate(LatencyOnly(resplit=resplits), scene, rounds)
        found[f"latency only, {suffix}"] = show(f"latency only, {suffix}", scene, fast)
        budget_s = 1.5 * float(np.median(fast.delay_s))
        joule = (0.3 * np.median(fast.joule, axis=0)).tolist()
        policy = ASFL(delay_budget_s=budget_s, energy_budget_joule=joule, trade_off=1.0, resplit=resplits)
        ours = show(f"ASFL, {suffix}", scene, simulate(policy, scene, rounds))
        myopic = Myopic(delay_budget_s=budget_s, energy_budget_joule=joule, resplit=resplits)
        show(f"myopic, {suffix}", scene, simulate(myopic, scene, rounds))
        for place, what in enumerate(("delay", "energy")):
            saved = {label: 1 - ours[place] / total[place] for label, total in found.items()}
            most = max(saved, key=lambda label: saved[label])
            print(
                f"    ASFL's {what}: {saved[most]:+.0%} saved against {most} (the worst); median"
                f" {np.median(list(saved.values())):+.0%}; best fixed cut"
                f" {next(value for label, value in saved.items() if label.startswith('splitfed_shared, best')):+.0%}"
            )


def _fixed(cut: str) -> Fixed:
    return Fixed(cut=cut)


def _seconds(scene: Scene, trace: Trace) -> float:
    return totals(scene, trace)[0]


def totals(scene: Scene, trace: Trace) -> tuple[float, float, float]:
    """Seconds, joules and rounds to the target; a round of split learning is a turn of everybody."""
    turns = CLIENTS if scene.world.rule.hands_on else 1
    moment = scene.statistics.second_moment if scene.statistics else np.zeros(1)
    deepest = trace.cut.max(axis=1)
    mean = float(moment[deepest].mean())
    assert scene.statistics is not None
    statistics = dataclasses.replace(scene.statistics, second_moment=np.array([mean]))
    bound = Bound(statistics=statistics, learning_rate=LEARNING_RATE, interval=STEPS, clients=CLIENTS, target=TARGET)
    rounds = bound.steps(np.full(CLIENTS, BATCH), 0) / STEPS
    return rounds * turns * float(trace.delay_s.mean()), rounds * turns * float(trace.joule.sum(axis=1).mean()), rounds


def show(label: str, scene: Scene, trace: Trace) -> tuple[float, float]:
    """Print a row; return seconds and joules in all."""
    turns = CLIENTS if scene.world.rule.hands_on else 1
    seconds, joule, rounds = totals(scene, trace)
    print(
        f"{label:>44} {turns * trace.delay_s.mean():>10.3f} {turns * trace.joule.sum(axis=1).mean():>10.3f}"
        f" {rounds:>8.0f} {seconds:>12.4g} {joule:>12.4g}"
    )
    return seconds, joule


def make_scene(environment: str, algorithm: str) -> Scene:
    """Everybody at conv4, 32 samples a batch."""
    place = make_environment(environment, CLIENTS, SEED)
    world = World(
        profile=make_profile(),
        fleet=place.fleet,
        channel=place.channel,
        server=place.server,
        algorithm=algorithm,
        aggregate_every=STEPS,
    )
    return Scene(
        world=world,
        cut=np.full(CLIENTS, 3),
        batch_size=np.full(CLIENTS, BATCH),
        statistics=make_statistics(world),
        learning_rate=LEARNING_RATE,
    )


def make_statistics(world: World) -> GradientStatistics:
    """Like second moments per parameter; the whole model's drift takes half of the target."""
    share = world.profile.update_parameters / WHOLE[2]
    if world.rule.server_replicas or not world.rule.uses_cut:
        share = np.ones_like(share)
    if world.rule.hands_on:
        share = np.zeros_like(share)
    unit = DRIFT_SHARE * TARGET / (4 * (SMOOTHNESS * LEARNING_RATE * STEPS) ** 2)
    variance = VARIANCE_SHARE * TARGET * CLIENTS * BATCH / (SMOOTHNESS * LEARNING_RATE)
    return GradientStatistics(smoothness=SMOOTHNESS, variance=variance, second_moment=unit * share, loss_gap=1.0)


def make_profile() -> Profile:
    """The table of VGG-16 as a profile."""
    return dataclasses.replace(_profile(VGG16), whole=_profile((WHOLE,)))


def _profile(rows: tuple[tuple[str, float, int, int], ...]) -> Profile:
    forward = 1e6 * np.array([row[1] for row in rows])
    rest = 1e6 * WHOLE[1] - forward
    parameters = np.array([row[2] for row in rows])
    element = 256.0 * np.array([row[3] for row in rows])

    def per_sample(values: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(len(values)), values], axis=1)

    nothing = per_sample(0.0 * forward)
    return Profile(
        cuts=tuple(row[0] for row in rows),
        client_forward_flop=per_sample(forward),
        client_backward_flop=per_sample(2 * forward),
        server_forward_flop=per_sample(rest),
        server_backward_flop=per_sample(2 * rest),
        smashed_element=per_sample(element)[:, None],
        smashed_bit=per_sample(32 * element),
        cut_gradient_element=per_sample(element)[:, None],
        cut_gradient_bit=per_sample(32 * element),
        turn_flop=nothing,
        returned_element=nothing[:, None],
        returned_bit=nothing,
        returned_gradient_element=nothing[:, None],
        returned_gradient_bit=nothing,
        beside_bit=nothing,
        client_parameters=parameters,
        client_parameter_byte=4.0 * parameters,
        client_buffer_byte=0.0 * parameters,
        update_parameters=parameters,
        update_bit=32.0 * parameters,
        optimizer_state_bit=0.0 * parameters,
        client_training_memory_line=np.stack([8.0 * parameters, 4.0 * element], axis=1)[:, None],
        client_forward_memory_line=np.stack([4.0 * parameters, 4.0 * element], axis=1)[:, None],
        batch_byte=np.array([0.0, 12288.0]),
        whole=None,
    )


if __name__ == "__main__":
    main()
