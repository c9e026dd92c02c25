"""What drawing a direction costs: random numbers for the client's half of a ResNet-18 that is cut behind ``layer2``.

    python benchmarks/directions.py [--repeats 20]

CPU milliseconds of one thread, medians of interleaved runs.
"""

import argparse
import statistics
import time

import torch
import torchvision

from lightning_sfl.zeroth_order.directions import Distribution, direction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    network = torchvision.models.resnet18()
    client = [part for name, part in network.named_children() if name in ("conv1", "bn1", "layer1", "layer2")]
    parameters = [parameter for part in client for parameter in part.parameters()]
    times: dict[Distribution, list[float]] = {distribution: [] for distribution in Distribution}
    for repeat in range(repeats):
        for distribution in Distribution:
            begin = time.process_time_ns()
            for place, parameter in enumerate(parameters):
                direction(parameter, place, repeat, distribution)
            times[distribution].append((time.process_time_ns() - begin) / 1e6)
    print(f"{sum(parameter.numel() for parameter in parameters)} numbers, medians of {repeats}, CPU ms")
    for distribution in Distribution:
        print(f"{distribution:12} {statistics.median(times[distribution]):6.2f}")


if __name__ == "__main__":
    main()
