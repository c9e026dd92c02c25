"""Law 8 by force: runs killed at random moments, gone on with, and compared bit for bit with runs that were not killed.

    python benchmarks/kills.py

A run draws its algorithm, cut, round length, participation, data order, workers, validation and optimizer. It saves a
checkpoint after every step, half of the runs as Lightning does, half in place, so that a kill may leave a part of a
file. It is killed (SIGKILL) at a random time after a random event: the start of a step or of a validation, or the
beginning, the middle or the end of a save. Another process goes on from the newest checkpoint that can be read, or from
the start if there is none. Processes are forked from this one, which has imported everything and computed nothing.
"""

import argparse
import dataclasses
import random
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "strategy"))
from killed_runs import newest_whole, outcome_in, run_in_process
from resume_cases import Case, apart

ALGORITHMS = ("splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning", "fedavg")


@dataclasses.dataclass
class Row:
    """What became of the kills of one configuration."""

    kills: int = 0
    exact: int = 0
    mid_round: int = 0
    mid_epoch: int = 0
    while_saving: int = 0
    unreadable: int = 0
    from_the_start: int = 0


def drawn_case(draw: random.Random, algorithm: str, workers: int) -> Case:
    cut = draw.choice(["net.0", "net.3", "net.6", ("net.0", "net.6")])
    merges = algorithm == "splitfed_shared" and isinstance(cut, str) and draw.random() < 0.5
    return Case(
        algorithm=algorithm,
        workers=workers,
        persistent=workers > 0 and draw.random() < 0.3,
        cut=cut,
        server_batching="merged" if merges else "per_client",
        aggregate_every=draw.randint(1, 4),
        clients_per_round=draw.randint(1, 3),
        client_optimizer_state=draw.choice(["average", "reset", "keep"]),
        weighting=draw.choice(["samples", "data"] if merges else ["samples", "data", "uniform"]),
        shuffle=draw.random() < 0.7,
        own_generator=draw.random() < 0.4,
        drop_last=draw.random() < 0.3,
        optimizer=draw.choice(["sgd", "adamw"]),
        schedule=draw.choice([None, "step", "epoch", "horizon"]),
        validation=draw.choice([None, {}, {"val_check_interval": 1}, {"val_check_interval": 0.5}]),
        limit=draw.choice([None, None, 2]),
        sanity=draw.choice([0, 2]),
        epochs=draw.choice([None, 3]),
    )


def kill(draw: random.Random, case: Case, folder: Path, row: Row) -> list[str]:
    """Kill one run and go on with it; returns what tells it from a run that was not killed."""
    in_place = draw.random() < 0.5
    told = run_in_process(case, folder / "whole", in_place=in_place)
    last = max(step for _, step in told)
    early = [(what, step) for what, step in told if step < last - 1]  # so that it is killed before it has ended
    wanted = draw.choice(sorted({what for what, _ in early}))
    event = draw.choice([(what, step) for what, step in early if what == wanted])
    delay_s = draw.choice([0, draw.random() / 100])
    told = run_in_process(case, folder / "killed", kill=event, pause=False, in_place=in_place, delay_s=delay_s)
    newest, broken = newest_whole(folder / "killed")
    row.kills += 1
    row.while_saving += told[-1][0] in ("saving", "half")
    row.unreadable += len(broken)
    if newest is None:
        row.from_the_start += 1
    else:
        saved = torch.load(newest, weights_only=True)["split_federated"]
        row.mid_round += saved["rounds"].get("federation", {}).get("round") is not None
        row.mid_epoch += 0 < saved["loader"]["epoch_steps"] < steps_of_epoch(folder / "whole", saved)
    run_in_process(case, folder / "resumed", go_on=newest, in_place=in_place)
    return apart(outcome_in(folder / "whole"), outcome_in(folder / "resumed"))


def steps_of_epoch(folder: Path, saved: dict) -> int:
    """How many steps the epoch had that a checkpoint was saved in."""
    places = [step[0] for step in outcome_in(folder).steps.values()]
    epoch = next(place[3] for place in places if place[0] == saved["loader"]["delivered_steps"] - 1)
    return sum(place[3] == epoch for place in places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {(algorithm, workers): Row() for workers in (0, 2) for algorithm in ALGORITHMS}
    for number in range(options.kills):
        draw = random.Random(f"{options.seed} {number}")
        (algorithm, workers), row = list(rows.items())[number % len(rows)]
        case = drawn_case(draw, algorithm, workers)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            found = kill(draw, case, Path(folder), row)
        row.exact += not found
        if found:
            print(f"kill {number} differs in {len(found)} places, first {found[:3]}: {case}", file=sys.stderr)
    total = Row(*(sum(values) for values in zip(*(dataclasses.astuple(row) for row in rows.values()), strict=True)))
    names = [field.name.replace("_", " ") for field in dataclasses.fields(Row)]
    print(f"{'configuration':<28}" + "".join(f"{name:>16}" for name in names))
    labelled = {f"{algorithm}, {workers} workers": row for (algorithm, workers), row in rows.items()}
    for label, row in {**labelled, "all": total}.items():
        print(f"{label:<28}" + "".join(f"{value:>16}" for value in dataclasses.astuple(row)))
    sys.exit(total.exact < total.kills)


if __name__ == "__main__":
    main()
