"""A strategy for one process on one device: there is nothing to reduce, gather or wait for."""

from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from typing_extensions import override

from lightning_sfl.cut.find import training_step
from lightning_sfl.strategy.autocast import train_step_context


class SingleProcessStrategy(Strategy):
    """One process, one device. Lightning's connector fills ``parallel_devices`` from its own arguments."""

    parallel_devices: list[torch.device] | None = None
    num_nodes: int = 1

    @property
    @override
    def root_device(self) -> torch.device:
        return self.parallel_devices[0] if self.parallel_devices else torch.device("cpu")

    @property
    @override
    def is_global_zero(self) -> bool:
        return True

    @property
    def global_rank(self) -> int:
        """There is one process."""
        return 0

    @property
    def is_distributed(self) -> bool:
        """There is one process."""
        return False

    @override
    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        return tensor

    @override
    def barrier(self, name: str | None = None) -> None:
        pass

    @override
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    @override
    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def run_step(self, module: nn.Module, batch: Any) -> Any:
        """Run one training step of a copy of the module in the trainer's precision, wherever the copy is."""
        with train_step_context(self.precision_plugin, module):
            return training_step(module, batch)
