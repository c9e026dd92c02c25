"""The three modes of the hook on a cut module: pass, halt and inject.

pass    one forward for both sides: the smashed data go through a carrier (the link) as one autograd operation, and the
        cut gradient goes through it on its way back.
halt    a client alone: the program stops at the cut; the client calls backward later with the cut gradient.
inject  the server alone: what ran before the cut is replaced by its shape, private inputs are blank, and the cut module
        returns what was received.

In a U-shape the server's program is injected at the first cut and halts at the second; the client's runs through, with
the server as one autograd operation between the cuts.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_sfl.cut.batch import named_tensors, replace_tensors
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.split import Split
from lightning_sfl.cut.stub import replaced_forward, stubbed
from lightning_sfl.random_state import RandomState


class Carrier(Protocol):
    """What takes tensors across a cut."""

    def carry(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take tensors to the other side and return what arrives there."""
        ...

    def carry_back(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Take their gradients back and return what arrives; None where nothing depends on a tensor."""
        ...


class _Cross(torch.autograd.Function):
    """Crossing a cut, as one operation: forward over the link, and backward over it again."""

    @staticmethod
    def forward(ctx: Any, carrier: Carrier, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.carrier = carrier
        ctx.set_materialize_grads(False)
        # A detached alias, so that an in-place operation behind the cut is recorded behind this one.
        return tuple(tensor.detach() for tensor in carrier.carry(tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *ctx.carrier.carry_back(grads))


class PassHook:
    """The hook in pass mode, on one module, for one training step at a time.

    Args:
        module: The whole module.
        cut: Name of the cut module.
        crossing: Places of the crossing tensors in the cut module's flattened output; None for all of them, in
            a step that is watched to find out.
    """

    def __init__(self, module: nn.Module, cut: str, crossing: Sequence[int] | None) -> None:
        self.cut = cut
        self.crossing = None if crossing is None else tuple(crossing)
        self._module = module.get_submodule(cut)
        self._carrier: Carrier | None = None
        self._visits = 0

    @contextmanager
    def forward(self, carrier: Carrier) -> Iterator[None]:
        """Everything the cut module returns in this context goes through ``carrier``.

        The context holds the forward pass alone: a recomputation during the backward pass (gradient checkpointing)
        finds the hook gone, so nothing crosses twice.
        """
        self._carrier, self._visits = carrier, 0
        handle = self._module.register_forward_hook(self._hook)
        try:
            yield
        finally:
            handle.remove()
            self._carrier = None

    def check_visits(self) -> None:
        """Raise a CutError unless the last forward visited the cut module exactly once with gradients enabled."""
        if self._visits != 1:
            raise CutError(
                f"cut={self.cut!r}: this step visited the module {self._visits} times with gradients enabled; a cut is"
                " a module visited once."
            )

    def _hook(self, _module: nn.Module, _inputs: object, output: object) -> object:
        if not torch.is_grad_enabled() or self._carrier is None:
            return output
        self._visits += 1
        if self._visits > 1:
            return output  # counted, to be refused when the step has ended
        leaves, spec = tree_flatten(output)
        places = self.crossing if self.crossing is not None else _tensor_places(leaves)
        if not places:
            raise CutError(f"cut={self.cut!r}: the output of this module holds no tensor that could cross.")
        for place, tensor in zip(places, _Cross.apply(self._carrier, *(leaves[p] for p in places)), strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, spec)


def _tensor_places(leaves: Sequence[object]) -> tuple[int, ...]:
    return tuple(place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor))


class CutReached(BaseException):
    """Raised in halt mode when the cut module returns."""

    def __init__(self, crossing: tuple[Tensor, ...]) -> None:
        super().__init__("the cut was reached")
        self.crossing = crossing


@dataclasses.dataclass(frozen=True)
class Halted:
    """A part of a step, stopped at a cut.

    Attributes:
        smashed: The crossing tensors, with the autograd graph of the part.
        random_state: Torch's random state at the cut.
    """

    smashed: tuple[Tensor, ...]
    random_state: RandomState

    def backward(self, gradient: Sequence[Tensor | None]) -> None:
        """Finish the part: backpropagate the crossing tensors' gradient into its parameters."""
        pairs = [
            (tensor, grad)
            for tensor, grad in zip(self.smashed, gradient, strict=True)
            if grad is not None and tensor.requires_grad
        ]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])


def halt(module: nn.Module, split: Split, step: Callable[[], object]) -> Halted:
    """Run ``step`` until the cut: a client alone, in a U-shape its first part. The server's buffers stay as they are.

    Args:
        module: The whole module.
        split: The split; its cut says where to stop.
        step: Runs the training step on the client's batch.

    Raises:
        CutError: The step ended without visiting the cut module.
    """
    with _kept(module, set(split.server_buffers) - set(split.client_buffers)):
        return _halt_at(module, split.cut, split.smashed, step)


def _halt_at(module: nn.Module, cut: str, places: Sequence[int], step: Callable[[], object]) -> Halted:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        if torch.is_grad_enabled():
            leaves = tree_flatten(output)[0]
            raise CutReached(tuple(leaves[place] for place in places))

    handle = module.get_submodule(cut).register_forward_hook(hook)
    try:
        step()
    except CutReached as reached:
        return Halted(reached.crossing, RandomState.capture())
    finally:
        handle.remove()
    raise CutError(f"cut={cut!r}: the training step ended without visiting this module.")


@dataclasses.dataclass(frozen=True)
class Injected:
    """The server's part of a step.

    Attributes:
        output: What the step returned; in a U-shape a :class:`Halted`, the server's part stopped at the second cut.
        received: The received tensors, leaves of the server's graph; their ``grad`` is the cut gradient after backward.
    """

    output: Any
    received: tuple[Tensor, ...]


def inject(
    module: nn.Module,
    split: Split,
    step: Callable[[Any], Any],
    batch: Any,
    smashed: Sequence[Tensor],
    *,
    random_state: RandomState | None = None,
) -> Injected:
    """Run the server's part of ``step`` alone, on what was received. The clients' buffers stay as they are.

    Args:
        module: The whole module; weights the client owns are not read.
        split: The split at hand.
        step: Runs the training step on a batch.
        batch: A batch of the right structure and shapes. What does not cross is blanked here, whatever it holds.
        smashed: The received tensors, in the order of ``split.smashed``.
        random_state: Torch's random state at the client's halt, to be continued from the cut on; None lets the server
            draw its own, equal in distribution.
    """
    blank = {name: torch.zeros_like(tensor) for name, tensor in named_tensors(batch).items() if name in split.private}
    received = tuple(
        tensor.detach().requires_grad_(tensor.is_floating_point() or tensor.is_complex()) for tensor in smashed
    )

    def cut_forward(*_args: object, **_kwargs: object) -> object:
        if random_state is not None:
            random_state.restore()
        # Cloned, since the program may go on to write in place what a leaf must not have written.
        tensors: Mapping[int, Tensor] = {
            place: tensor.clone() for place, tensor in zip(split.smashed, received, strict=True)
        }
        return split.form.fill(tensors)

    at_server = replace_tensors(batch, blank)
    with (
        _kept(module, set(split.client_buffers) - set(split.server_buffers)),
        stubbed(module, split.stubs),
        replaced_forward(module.get_submodule(split.cut), cut_forward),
    ):
        if split.back is None:
            output = step(at_server)
        else:
            output = _halt_at(module, split.back.cut, split.back.outputs, lambda: step(at_server))
    return Injected(output, received)


@contextmanager
def _kept(module: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Leave the other side's buffers as they were: both sides run what stands around the modules, such as a counter."""
    held = {name: (buffer := module.get_buffer(name), buffer.data) for name in names}
    for buffer, data in held.values():
        buffer.data = data.clone()
    try:
        yield
    finally:
        for name, (buffer, data) in held.items():
            owner, _, key = name.rpartition(".")
            module.get_submodule(owner)._buffers[key] = buffer  # the step may have assigned a new tensor
            buffer.data = data


def run_around(module: nn.Module, split: Split, step: Callable[[], Any], server: Carrier) -> Any:
    """Run the client's two parts of a U-shaped ``step``, with the server between them; returns what the step returned.

    The server is one operation of the client's graph: the loss's backward pass hands it the gradient of what it gave,
    and goes on with the cut gradient that comes back.

    Args:
        module: The whole module; weights the server owns are not read.
        split: The split, with a second cut.
        step: Runs the training step on the client's batch.
        server: Takes the smashed data and gives the server's output; takes that one's gradient and gives the cut
            gradient.

    Raises:
        CutError: The step ended without visiting both cut modules.
    """
    back = split.back
    assert back is not None
    smashed: list[Tensor] = []
    returned: list[Tensor] = []

    def leave(_module: nn.Module, _inputs: object, output: object) -> None:
        if torch.is_grad_enabled():
            leaves = tree_flatten(output)[0]
            smashed.extend(leaves[place] for place in split.smashed)

    def come_back(_module: nn.Module, _inputs: object, output: object) -> object:
        if not torch.is_grad_enabled() or not smashed:
            return output
        leaves, spec = tree_flatten(output)
        returned.extend(_Cross.apply(server, *smashed))
        for place, tensor in zip(back.outputs, returned, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, spec)

    with ExitStack() as stack:
        stack.enter_context(stubbed(module, back.stubs))
        stack.callback(module.get_submodule(split.cut).register_forward_hook(leave).remove)
        stack.callback(module.get_submodule(back.cut).register_forward_hook(come_back).remove)
        output = step()
    if not returned:
        raise CutError(f"cut={(split.cut, back.cut)!r}: the training step ended without visiting both modules.")
    return output
