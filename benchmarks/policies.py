"""The claims of HASFL, ASFL and SFLAM side by side, in one run: tables, and figures in the folder.

    python benchmarks/policies.py --output runs/policies

By cost alone, with networks of the papers' size: how much longer than HASFL its baselines take to the bound's target
(``hasfl_by_cost.py``); delay and energy of ASFL against five baselines and the best fixed cut, and its V
(``asfl_by_cost.py``); SFLAM's latency against its energy, and its clients' memory (``latency_energy.py``). In real
training of small networks on digits and 5,000 images of CIFAR-10, on simulated time: HASFL (``hasfl_training.py``) and
ASFL (``asfl_training.py``). Each of these says what is compared, and runs by itself.

``--parts`` and ``--tasks`` choose what is compared. Runs of ASFL and of trainings that are in the
folder already are not made again, so that an interrupted benchmark goes on where it was, and two of them may share a
folder if they have different parts or tasks. Without ``LIGHTNING_SFL_DATA`` give ``--tasks digits``.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import asfl_by_cost
import asfl_training
import hasfl_by_cost
import hasfl_training
import latency_energy
import torch
from asfl_runs import cost_rows, trade_off_points
from paper_profiles import PROFILES
from policies_figures import save_accuracy, save_delay_energy, save_front, save_ratios
from quiet import quiet
from training_tasks import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    for part in options.parts:
        PARTS[part](options.output, options.seeds, options.tasks)


def hasfl_cost(output: Path, seeds: int, tasks: list[str]) -> None:
    """HASFL with networks of the paper's size; the tasks are none of them."""
    panels: dict[str, dict[str, list[float]]] = {}
    for network in PROFILES:
        rows = list(hasfl_by_cost.compared(network, clients=20, draws=seeds, rounds=10))
        hasfl_by_cost.print_table(network, rows)
        for row in rows:
            panel = panels.setdefault(f"{network}, {row.devices}", {})
            for policy, ratios in row.ratios.items():
                panel.setdefault(policy, []).extend(ratios)
    save_ratios(output / "hasfl_by_cost.svg", panels)


def asfl_cost(output: Path, seeds: int, tasks: list[str]) -> None:
    """ASFL with networks of the paper's size; the tasks are none of them."""
    rows = cost_rows(output / "asfl_cost", seeds=range(seeds))
    asfl_by_cost.print_rows(rows)
    asfl_by_cost.print_savings(asfl_by_cost.savings(rows))
    asfl_by_cost.print_points(trade_off_points(output / "asfl_cost", seeds=range(seeds)))


def sflam_cost(output: Path, seeds: int, tasks: list[str]) -> None:
    """SFLAM with the paper's network; the tasks are none of it."""
    profile = latency_energy.make_profile()
    latency_energy.print_memory(profile)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in latency_energy.BAND_HZ:
        points = latency_energy.front(name, profile, 10, range(seeds))
        latency_energy.print_front(name, points)
        for point in points:
            line = panels.setdefault(name, {}).setdefault(point.policy, [])
            line.append((median(point.round_s), median(point.client_joule)))
    save_front(output / "sflam_front.svg", panels)


def hasfl_trained(output: Path, seeds: int, tasks: list[str]) -> None:
    """HASFL in real training."""
    for task in tasks:
        found = {ranges: hasfl_training.curves(output, task, ranges, seeds) for ranges in hasfl_training.RANGES}
        for ranges, curves in found.items():
            hasfl_training.print_table(task, ranges, curves)
        save_accuracy(output / f"hasfl_{task}.svg", found, TASKS[task].target)


def asfl_trained(output: Path, seeds: int, tasks: list[str]) -> None:
    """ASFL in real training."""
    panels = {}
    for task, (sized_by, start) in itertools.product(tasks, ASFL_PLACES):
        place = asfl_training.Place(folder=output, task=task, fading="block", sized_by=sized_by, start=start)
        curves = asfl_training.curves(place, seeds)
        asfl_training.print_table(place, curves)
        panels[f"{task}, sized by {sized_by}, from the {start} cut"] = (curves, TASKS[task].target)
    save_delay_energy(output / "asfl_training.svg", panels)


ASFL_PLACES = (("weights", "middle"), ("weights", "fastest"), ("features", "middle"))
"""How ASFL's world is brought to a small network's size, and at which cut the first round is."""
PARTS: Mapping[str, Callable[[Path, int, list[str]], None]] = {
    "hasfl-cost": hasfl_cost,
    "asfl-cost": asfl_cost,
    "sflam-cost": sflam_cost,
    "hasfl-training": hasfl_trained,
    "asfl-training": asfl_trained,
}


if __name__ == "__main__":
    main()
