"""The global random states that a training step may draw from, taken and put back."""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class RandomState:
    """The state of the default generators of torch (CPU and every CUDA device in use), NumPy and Python."""

    cpu: Tensor
    cuda: tuple[Tensor, ...]
    numpy: dict[str, Any]
    python: tuple[Any, ...]

    @classmethod
    def capture(cls) -> "RandomState":
        """The state at this moment."""
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - the user's step may draw from it
        assert isinstance(numpy, dict)
        return cls(torch.get_rng_state(), cuda, numpy, random.getstate())

    def to_state(self) -> dict[str, Any]:
        """As tensors and plain Python, for checkpoints."""
        inner = self.numpy["state"]
        numpy = {**self.numpy, "state": {**inner, "key": torch.from_numpy(inner["key"].copy())}}
        return {"cpu": self.cpu, "cuda": list(self.cuda), "numpy": numpy, "python": self.python}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "RandomState":
        """What :meth:`to_state` gave."""
        inner = state["numpy"]["state"]
        numpy = {**state["numpy"], "state": {**inner, "key": inner["key"].numpy()}}
        return cls(state["cpu"], tuple(state["cuda"]), numpy, state["python"])

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.cpu)
        for device, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)
