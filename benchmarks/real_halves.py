"""A client's half as it really runs, alone and on real tensors, counted from outside."""

from collections.abc import Callable, Iterable

import torch
from allocations import peak_tensor_byte
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.find import copied_module, training_step
from lightning_sfl.cut.modes import halt
from lightning_sfl.cut.split import Split
from lightning_sfl.optimizers import copy_optimizer
from lightning_sfl.strategy.forward_only import inner_product
from lightning_sfl.zeroth_order.directions import Directions, Distribution, draw_seeds


def _byte(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class RealHalf:
    """A client's half of ``module``: it alone has weights, and its optimizer has stepped once already."""

    def __init__(self, module: nn.Module, split: Split, batch: object, optimizer: Optimizer) -> None:
        self.module, self.split, self.batch = copied_module(module), split, batch
        own = {module.get_parameter(name): self.module.get_parameter(name) for name in split.client_parameters}
        self.optimizer = copy_optimizer(optimizer, own)
        self.train()

    def train(self) -> None:
        """One step, as a client takes it: to the cut, back from it, and a step of the optimizer."""
        halted = halt(self.module, self.split, lambda: training_step(self.module, self.batch))
        halted.backward([torch.ones_like(tensor) for tensor in halted.smashed])
        del halted
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def forward(self) -> None:
        """The forward pass alone."""
        with torch.no_grad():
            self._smashed()

    def _smashed(self) -> list[torch.Tensor]:
        reached: list[object] = []
        module = self.module.get_submodule(self.split.cut)
        handle = module.register_forward_hook(lambda *args: reached.append(args[2]) or _stop())
        try:
            training_step(self.module, self.batch)
        except _Stop:
            pass
        finally:
            handle.remove()
        leaves = tree_leaves(reached[0])
        return [leaves[place] for place in self.split.smashed]

    def probe(self) -> None:
        """One step of a HO-SFL client: two probes, and the optimizer's step on the estimate."""
        names = [name for name in self.split.client_parameters if self.module.get_parameter(name).requires_grad]
        directions = Directions(self.module, draw_seeds(0, 0, 2), Distribution.GAUSSIAN)
        with torch.no_grad():
            smashed = self._smashed()
            gradient = [torch.ones_like(tensor) for tensor in smashed]
            slopes = []
            for probe in range(2):
                with directions.moved(names, probe, 1e-3):
                    moved = self._smashed()
                slopes.append(inner_product(gradient, moved, smashed) / 1e-3)
                del moved
        del smashed, gradient
        for name in names:
            self.module.get_parameter(name).grad = directions.estimate(name, slopes)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def peak_byte(
        self,
        run: Callable[[], None],
        count: Callable[[Callable[[], object]], int] = peak_tensor_byte,
        *,
        with_state: bool = True,
    ) -> int:
        """The most that it holds while it runs, with what it holds all the time."""
        held = [self.module.get_parameter(name) for name in self.split.client_parameters]
        held += [self.module.get_buffer(name) for name in self.split.client_buffers]
        if with_state and self.optimizer is not None:
            values = [value for state in self.optimizer.state.values() for value in state.values()]
            held += [value for value in values if isinstance(value, torch.Tensor)]
        return _byte(held) + _byte(named_tensors(self.batch).values()) + count(run)


class _Stop(BaseException):
    pass


def _stop() -> None:
    raise _Stop
