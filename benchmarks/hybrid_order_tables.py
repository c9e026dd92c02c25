"""What ``hybrid_order.py`` prints and draws of its runs."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MB = 1e6
Found = dict[str, Any]


def print_results(title: str, found: dict[str, list[Found]], start: Sequence[Found]) -> None:
    """One table for a task and partition: accuracy against steps and bytes, every method a line.

    Args:
        title: Says what was trained.
        found: Runs by method, one per seed.
        start: The model before training, one per seed.
    """
    steps = [row["step"] for row in next(iter(found.values()))[0]["rows"]]
    budget = min(_bytes(run)[-1] for runs in found.values() for run in runs if _bytes(run)[-1] > 0)
    at_start = [100 * run["rows"][0]["accuracy"] for run in start]
    clients = max(run["client_parameters"] for run in start)
    print(f"\n{title}; d_c = {clients:,}; before training {_spread(at_start)} %; {len(start)} seeds")
    columns = [f"step {step}" for step in steps]
    print(f"{'':16}" + "".join(f"{column:>15}" for column in columns) + f"{'at equal bytes':>15}"
          f"{'up, MB/step':>12}{'down, MB/step':>14}{'CPU s':>7}")  # fmt: skip
    for method, runs in found.items():
        accuracy = np.array([[100 * row["accuracy"] for row in run["rows"]] for run in runs])
        equal = [float(np.interp(budget, [0, *_bytes(run)], [at, *seen]))
                 for run, at, seen in zip(runs, at_start, accuracy, strict=True)]  # fmt: skip
        last = [run["rows"][-1] for run in runs]
        up, down = (
            statistics.mean(row[key] for row in last) / MB / steps[-1] for key in ("uplink_byte", "downlink_byte")
        )
        cells = [_spread(list(column)) for column in accuracy.T]
        print(f"{method:16}" + "".join(f"{cell:>15}" for cell in [*cells, _spread(equal)])
              + f"{up:>12.2f}{down:>14.2f}{statistics.mean(run['cpu_s'] for run in runs):>7.0f}")  # fmt: skip
    print(f"(% right, mean ± standard deviation over seeds; equal bytes: after {budget / MB:,.0f} MB up and down)")


def print_tried(task: str, tried: dict[str, list[Found]]) -> None:
    """What every pair of learning rates that was tried out came to."""
    print(f"\n{task}: rates tried, accuracy in % on the samples for tuning")
    print(f"{'':16}{'client':>9}{'server':>9}{'accuracy':>10}")
    for method, runs in tried.items():
        best = max(runs, key=lambda run: run["rows"][-1]["accuracy"] if run["rows"] else 0.0)
        for run in runs:
            seen = f"{100 * run['rows'][-1]['accuracy']:.2f}" if run["rows"] else "no number"
            mark = " <" if run is best else ""
            print(f"{method:16}{run['rates']['client']:>9g}{run['rates']['server']:>9g}{seen:>10}{mark}")


def print_memory(found: dict[tuple[str, str], dict[str, int]]) -> None:
    """A client's peak, every way of training beside the other."""
    columns = ("held", "counted", "allocated")
    print(
        "\nA client's memory, MiB: held all the time, and at the peak\n"
        + " " * 36
        + "".join(f"{c:>11}" for c in columns)
    )
    for (task, way), peaks in found.items():
        print(f"{task:16}{way:20}" + "".join(f"{peaks[column] / 2**20:>11.2f}" for column in columns))


def draw(path: Path, found: dict[str, dict[str, list[Found]]], starts: dict[str, list[Found]]) -> None:
    """Accuracy against steps above, against bytes below; a column for every task and partition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(4.2 * len(found), 6.4), squeeze=False, layout="constrained")
    for column, (title, methods) in enumerate(found.items()):
        at_start = statistics.mean(100 * run["rows"][0]["accuracy"] for run in starts[title])
        for method, runs in methods.items():
            accuracy = np.array([[100 * row["accuracy"] for row in run["rows"]] for run in runs]).mean(axis=0)
            steps = [row["step"] for row in runs[0]["rows"]]
            gigabytes = np.array([_bytes(run) for run in runs]).mean(axis=0) / 1e9
            for row, places in enumerate((steps, gigabytes)):
                axes[row][column].plot([0, *places], [at_start, *accuracy], marker="o", markersize=3, label=method)
        axes[0][column].set(title=title, xlabel="steps", ylabel="accuracy, %")
        axes[1][column].set(xlabel="GB, up and down", ylabel="accuracy, %")
    axes[0][0].legend()
    figure.savefig(path)
    pyplot.close(figure)


def _bytes(run: Found) -> list[float]:
    return [row["uplink_byte"] + row["downlink_byte"] for row in run["rows"]]


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
