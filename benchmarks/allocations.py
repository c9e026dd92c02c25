"""Counting what tensors take on the CPU: every storage that an operation makes while something runs, until it is freed.

The size of the process would be of no use: the interpreter and torch alone take most of it. What a kernel needs for a
moment within one operation is not seen.
"""

import itertools
import json
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Allocations(TorchDispatchMode):
    """Adds up storages from the operation that makes them to their end; backward passes run operations too."""

    def __init__(self) -> None:
        super().__init__()
        self.held_byte = self.peak_byte = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in _real_tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _real_tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                given.add(storage._cdata)
                self.held_byte += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak_byte = max(self.peak_byte, self.held_byte)
        return result

    def _free(self, size_byte: int) -> None:
        self.held_byte -= size_byte


def _real_tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not hasattr(leaf, "fake_mode")]


def peak_tensor_byte(run: Callable[[], object]) -> int:
    """The most bytes that tensors made during ``run`` held at one time; what was there before does not count."""
    with _Allocations() as counted:
        run()
    return counted.peak_byte


def allocated_byte(run: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had handed out at one time during ``run``, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate(byte for _, byte in memory), default=0)
