"""What a client of ``hybrid_order.py`` needs of memory, each way of training measured in a process of its own.

`held` is what is there all the time: weights (frozen ones too) and buffers of the client's half, its optimizer's state
and the batch. `counted` adds the most that tensors held at one time of what its step made (allocations.py says how);
`allocated` adds what torch's own CPU allocator handed out instead, and so what a kernel takes for a moment within one
operation as well. The data set, the server's weights and the interpreter count in none.
"""

import json
import subprocess
import sys
from pathlib import Path

from allocations import allocated_byte, peak_tensor_byte
from hybrid_order_models import Tuned
from real_halves import RealHalf
from torch import Tensor

from lightning_sfl.cut.find import search

WAYS = ("backpropagation", "forward only")


def peaks(module: Tuned, batch: tuple[Tensor, ...], way: str) -> dict[str, int]:
    """What one way needs, in bytes, in the process at hand."""
    half = RealHalf(module, search(module, batch).split(module.cut), batch, module.configure_optimizers())
    step = half.train if way == "backpropagation" else half.probe
    return {
        "held": half.peak_byte(step, lambda run: 0),
        "counted": half.peak_byte(step, peak_tensor_byte),
        "allocated": half.peak_byte(step, allocated_byte),
    }


def in_own_process(task: str, way: str) -> dict[str, int]:
    """Run :func:`peaks` in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("hybrid_order.py")), "--memory-of", task, way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
