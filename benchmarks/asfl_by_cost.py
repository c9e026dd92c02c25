"""ASFL by cost alone: total delay and energy to the bound's number of rounds, beside five baselines and the best cut.

    python benchmarks/asfl_by_cost.py --output runs/asfl_by_cost

VGG-16 on images of 32x32, 20 clients, 15 steps a round, no training (``asfl_scenes``). Of every run the mean delay and
energy of a round are measured; the bound of ``policies/bound.py`` says how many steps it takes with the drift that the
run had on average; schemes that serve clients one by one are taken to need as many rounds as the others, although each
of theirs has 20 times as many updates. Energy is that of all clients. The five baselines are our choice, as the paper's
are not known: FedAvg, split learning, SplitFed-V1 and -V2, each at its best cut in hindsight (and, beside it, at a
middle one), and latency-only. "Best fixed cut" is the one common cut with which ASFL's own algorithm takes least time
in hindsight.

ASFL has budgets of 1.5 times the delay and .3 times the energy of latency-only's medians, and, so that energy is
compared at equal delay, of 1.0 times the delay and .5 times the energy of the best fixed cut's means. Layers that move
are in the broadcast, or a stage of their own ("re-split apart"). What cuts contribute is told by ASFL's clocks and
powers at the best fixed cut ("clocks and powers alone").

Devices are those of the named environments; ``wide`` is ``wei_chen`` with devices of 0.05 to 0.5 TFLOPS and bands that
have 10 to 80 Mbit/s up and 360 to 380 down at the mean gain. Fading stays for a round (block), or is drawn anew about
twenty times in one, so that what was decided by is soon out of date (fast), unless it was mean gains ("by means").
Medians and ranges over seeds, which draw devices and fading; what is saved is compared seed by seed. Last, ASFL with
several V, in which layers have like second moments: the mean drift Φ, the queues in the second half of the rounds, and
the shares of the budgets that are used. What is in the folder is not made again.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from asfl_runs import APART, BY_MEANS, ONE_CUT, Point, Row, cost_rows, trade_off_points
from asfl_scenes import CLIENTS, COHERENCE_S, PLACES, FadingName

FIVE = ("FedAvg", "split learning, best cut", "SplitFed-V1, best cut", "SplitFed-V2, best cut", "latency only")
OURS = ("ASFL", "ASFL at the best fixed cut's delay")
BEST_FIXED = "fixed, best cut"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """What ASFL saves in one world, as shares; negative where it takes more.

    Attributes:
        environment: Devices and channel.
        fading: How the channel changes.
        seed: Of devices and channel.
        policy: Which ASFL.
        what: Delay or energy, in all.
        worst: Against the worst of the five baselines.
        median: Against their median.
        best_fixed: Against the best fixed cut in hindsight.
    """

    environment: str
    fading: FadingName
    seed: int
    policy: str
    what: str
    worst: float
    median: float
    best_fixed: float


TOTALS: dict[str, Callable[[Row], float]] = {"delay": lambda row: row.total_s, "energy": lambda row: row.total_joule}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--environments", nargs="+", default=list(COHERENCE_S), choices=list(COHERENCE_S))
    parser.add_argument("--fading", nargs="+", default=["none", "block", "fast"], choices=["none", "block", "fast"])
    parser.add_argument("--trade-off-rounds", type=int, default=200)
    options = parser.parse_args()
    places = [place for place in PLACES if place[0] in options.environments and place[1] in options.fading]
    seeds = range(options.seeds)
    rows = cost_rows(options.output, places=places, seeds=seeds, rounds=options.rounds)
    points = trade_off_points(options.output, seeds=seeds, rounds=options.trade_off_rounds)
    print_rows(rows)
    print_savings(savings(rows))
    print_points(points)


def savings(rows: Sequence[Row]) -> list[Saving]:
    """World by world."""
    found = []
    worlds = dict.fromkeys((row.environment, row.fading, row.seed) for row in rows)
    for environment, fading, seed in worlds:
        here = {
            row.policy: row for row in rows if (row.environment, row.fading, row.seed) == (environment, fading, seed)
        }
        suffixes = ["", ONE_CUT, APART, *([BY_MEANS] if fading == "fast" else [])]
        for name in (ours + suffix for suffix in suffixes for ours in OURS):
            apart = APART if name.endswith(APART) else ""
            five = [here[label + (apart if label == "latency only" else "")] for label in FIVE]
            for what, of in TOTALS.items():
                taken, others = of(here[name]), [of(row) for row in five]
                found.append(
                    Saving(
                        environment=environment,
                        fading=fading,
                        seed=seed,
                        policy=name,
                        what=what,
                        worst=1 - taken / max(others),
                        median=1 - taken / statistics.median(others),
                        best_fixed=1 - taken / of(here[BEST_FIXED]),
                    )
                )
    return found


def print_rows(rows: Sequence[Row]) -> None:
    """A table per environment and fading."""
    for environment, fading in dict.fromkeys((row.environment, row.fading) for row in rows):
        here = [row for row in rows if (row.environment, row.fading) == (environment, fading)]
        seeds = len({row.seed for row in here})
        coherence = f", {COHERENCE_S[environment]} s of coherence" if fading == "fast" else ""
        print(f"\n{environment}, fading: {fading}{coherence}; {CLIENTS} clients, {seeds} seeds")
        print(
            f"{'policy':>60} {'cut':>5} {'s/round':>22} {'J/round':>22} {'total s':>26} {'total J':>26}"
            f" {'of delay':>17} {'of energy (most)':>24}"
        )
        for policy in dict.fromkeys(row.policy for row in here):
            own = [row for row in here if row.policy == policy]
            budgets = ""
            if (delays := [row.delay_share for row in own if row.delay_share is not None]) != []:
                energies = [row.energy_share for row in own if row.energy_share is not None]
                most = [row.most_energy_share for row in own if row.most_energy_share is not None]
                budgets = f" {span(delays, '.2f'):>17} {span(energies, '.2f'):>17} ({statistics.median(most):.2f})"
            print(
                f"{policy:>60} {statistics.median(row.cut for row in own):>5.1f}"
                f" {span([row.round_s for row in own]):>22} {span([row.round_joule for row in own]):>22}"
                f" {span([row.total_s for row in own]):>26} {span([row.total_joule for row in own]):>26}{budgets}"
            )


def print_savings(found: Sequence[Saving]) -> None:
    """In percent."""
    print("\nWhat ASFL saves, in percent; negative: takes more")
    print(
        f"{'environment':>15} {'policy':>60} {'what':>7} {'worst of five':>20} {'their median':>20}"
        f" {'best fixed cut':>20}"
    )
    for key in dict.fromkeys((each.environment, each.fading, each.policy, each.what) for each in found):
        own = [each for each in found if (each.environment, each.fading, each.policy, each.what) == key]
        spans = [
            span([100 * share for share in shares], ".0f")
            for shares in (
                [each.worst for each in own],
                [each.median for each in own],
                [each.best_fixed for each in own],
            )
        ]
        print(f"{key[0] + ', ' + key[1]:>15} {key[2]:>60} {key[3]:>7} {spans[0]:>20} {spans[1]:>20} {spans[2]:>20}")


def print_points(points: Sequence[Point]) -> None:
    """A row per V."""
    for environment, fading in dict.fromkeys((point.environment, point.fading) for point in points):
        here = [point for point in points if (point.environment, point.fading) == (environment, fading)]
        print(f"\n{environment}, fading: {fading}; {len({point.seed for point in here})} seeds")
        print(f"{'V':>6} {'drift':>22} {'delay queue':>22} {'energy queue':>22} {'of delay':>17} {'of energy':>17}")
        for trade_off in dict.fromkeys(point.trade_off for point in here):
            own = [point for point in here if point.trade_off == trade_off]
            print(
                f"{trade_off:>6g} {span([point.drift for point in own]):>22}"
                f" {span([point.delay_queue for point in own]):>22}"
                f" {span([point.energy_queue for point in own]):>22}"
                f" {span([point.delay_share for point in own], '.2f'):>17}"
                f" {span([point.energy_share for point in own], '.2f'):>17}"
            )


def span(values: Sequence[float], form: str = ".3g") -> str:
    """The median, and the range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


if __name__ == "__main__":
    main()
