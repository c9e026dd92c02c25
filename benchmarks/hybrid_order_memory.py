"""What a client of ``hybrid_order.py`` needs of memory, each way of training measured in a process of its own.

`held` is what is there all the time: weights (frozen ones too) and buffers of the client's half, its optimizer's state
and the batch. `counted` adds the most that tensors held at one time of what its step made (allocations.py says how);
`allocated` adds what torch's own CPU allocator handed out instead, and so what a kernel takes for a moment within one
operation as well. The data set, the server's weights and the interpreter count in none.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from allocations import allocated_byte, peak_tensor_byte
from hybrid_order_models import Tuned
from real_halves import RealHalf
from torch import Tensor, nn

from lightning_sfl.cut.find import search, training_step
from lightning_sfl.cut.modes import halt
from lightning_sfl.cut.split import Split
from lightning_sfl.strategy.forward_only import inner_product, without_graph_of
from lightning_sfl.zeroth_order.directions import Distribution, direction

WAYS = ("backpropagation", "forward only")
MU = 1e-3


class ForwardOnlyHalf(RealHalf):
    """The same half without backpropagation: anchor, probes along λ, the update made of seeds and scalars.

    A tensor's directions are drawn one at a time, to move it and again to rebuild the update, so that no more than one
    is in memory. The weights as they were are kept meanwhile: moving them back would leave a rounding error.
    """

    def __init__(
        self, module: Tuned, split: Split, batch: object, optimizer: torch.optim.Optimizer, probes: int
    ) -> None:
        self.probes = probes
        super().__init__(module, split, batch, optimizer)

    def train(self) -> None:
        """One step."""
        names = [name for name in self.split.client_parameters if self.module.get_parameter(name).requires_grad]
        trained = [self.module.get_parameter(name) for name in names]
        with without_graph_of(self.module, names):
            anchor = halt(self.module, self.split, lambda: training_step(self.module, self.batch)).smashed
            cut_gradient = [torch.ones_like(tensor) for tensor in anchor]
            scalars = []
            for probe in range(self.probes):
                with moved(trained, probe):
                    there = halt(self.module, self.split, lambda: training_step(self.module, self.batch)).smashed
                scalars.append(inner_product(cut_gradient, there, anchor))
                del there
            del anchor, cut_gradient
        for place, parameter in enumerate(trained):
            parameter.grad = torch.zeros_like(parameter)
            for probe, scalar in enumerate(scalars):
                parameter.grad.add_(_along(parameter, place, probe), alpha=scalar / (self.probes * MU))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@contextmanager
def moved(parameters: Sequence[nn.Parameter], probe: int) -> Iterator[None]:
    """The weights moved along a probe's direction."""
    held = [parameter.data for parameter in parameters]
    for place, parameter in enumerate(parameters):
        parameter.data = torch.add(parameter.data, _along(parameter, place, probe), alpha=MU)
    yield
    for parameter, data in zip(parameters, held, strict=True):
        parameter.data = data


def _along(parameter: Tensor, place: int, probe: int) -> Tensor:
    return direction(parameter, place, probe, Distribution.GAUSSIAN)


def peaks(module: Tuned, batch: tuple[Tensor, ...], way: str, probes: int) -> dict[str, int]:
    """The peaks of one way, in bytes, in the process at hand."""
    optimizer = module.configure_optimizers()
    split = search(module, batch).split(module.cut)
    if way == "forward only":
        half: RealHalf = ForwardOnlyHalf(module, split, batch, optimizer, probes)
    else:
        half = RealHalf(module, split, batch, optimizer)
    return {
        "held": half.peak_byte(half.train, lambda run: 0),
        "counted": half.peak_byte(half.train, peak_tensor_byte),
        "allocated": half.peak_byte(half.train, allocated_byte),
    }


def in_own_process(task: str, way: str) -> dict[str, int]:
    """Run :func:`peaks` in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("hybrid_order.py")), "--memory-of", task, way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
