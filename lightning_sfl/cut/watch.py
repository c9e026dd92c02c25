"""Watching one training step, to learn its dataflow.

A dispatch mode sees every tensor operation of the step and notes, for each tensor it makes, the tensors it was made
from. Watching computes nothing and draws nothing: the step runs exactly once and its numbers are those of an unwatched
step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from lightning_sfl.cut.batch import named_tensors
from lightning_sfl.cut.dataflow import Dataflow, Leaf, LeafKind, OutputForm, ScalarRead, TensorForm, Visit
from lightning_sfl.cut.weightless import has_values

# Operations whose result depends on the shape and type of their input, never on its values.
_SHAPE_ONLY = frozenset(
    {
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_empty",
        "new_empty_strided",
        "new_zeros",
        "new_ones",
        "new_full",
    }
)


class Watch(TorchDispatchMode):
    """Records a :class:`Dataflow` while it is entered.

    Args:
        module: The module whose parameters and buffers are leaves of the graph.
        batch: The batch of the step; its tensors are leaves.
    """

    def __init__(self, module: nn.Module, batch: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Dataflow()
        self._node: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._storage_leaf: dict[int, int] = {}
        # Aliases of a tensor written in place must see the write; the storages are kept so that no address is reused.
        self._written: dict[int, int] = {}
        self._kept: list[object] = []
        self._stack: list[tuple[str, int]] = []
        self._follows_fake = not has_values(module)
        for kind, named in (
            (LeafKind.PARAMETER, dict(module.named_parameters())),
            (LeafKind.BUFFER, dict(module.named_buffers())),
            (LeafKind.BATCH, named_tensors(batch)),
        ):
            for name, tensor in named.items():
                self._add_leaf(tensor, Leaf(kind, name))
        for name, parameter in module.named_parameters(remove_duplicate=False):
            first = self.flow.leaves[self._node[parameter]].name
            self.flow.aliases.setdefault(first, []).append(name)

    def _add_leaf(self, tensor: Tensor, leaf: Leaf) -> None:
        if tensor in self._node:
            return
        node = self._new(tensor, ())
        self.flow.leaves[node] = leaf
        self._node[tensor] = node
        self._storage_leaf.setdefault(_storage(tensor), node)

    def _new(self, tensor: Tensor, parents: Iterable[int]) -> int:
        self.flow.parents.append(tuple(sorted(set(parents))))
        self.flow.sizes.append(tensor.numel())
        return len(self.flow.parents) - 1

    def nodes_of(self, tensor: Tensor) -> list[int]:
        """The nodes that a reader of ``tensor`` now depends on; empty for a tensor made of constants."""
        nodes = [self._node[tensor]] if tensor in self._node else []
        storage = _storage(tensor)
        if not nodes and storage in self._storage_leaf:
            nodes.append(self._storage_leaf[storage])  # an alias made where no operation is seen, such as `.data`
        if (write := self._written.get(storage)) is not None and not (nodes and nodes[0] >= write):
            nodes.append(write)  # an alias older than the write reads what was written
        return nodes

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else ""
        parents = (
            []
            if name in _SHAPE_ONLY
            else [node for tensor in inputs if self._seen(tensor) for node in self.nodes_of(tensor)]
        )
        result = func(*args, **kwargs)
        if name == "_local_scalar_dense":
            inside = frozenset(module for module, _ in self._stack)
            self.flow.scalar_reads.extend(ScalarRead(node, len(self.flow), inside) for node in parents)
            return result
        written = _written_arguments(func, args, kwargs)
        for tensor in written:
            if self._seen(tensor):
                node = self._new(tensor, parents)
                self._node[tensor] = node
                self._written[_storage(tensor)] = node
                self._kept.append(tensor.untyped_storage())
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and self._seen(value) and not any(value is tensor for tensor in written):
                self._node[value] = self._new(value, parents)
        return result

    def _seen(self, tensor: Tensor) -> bool:
        """Whether a tensor is followed: fake ones are only where the module itself is (else stubs made them)."""
        return self._follows_fake or not hasattr(tensor, "fake_mode")

    def mark_ends(self, loss: Tensor, module: nn.Module) -> None:
        """Say what is left when the step has ended: the loss it returned, and the module's buffers as they are now."""
        self.flow.loss = tuple(self.nodes_of(loss))
        after = {node for buffer in module.buffers() for node in self.nodes_of(buffer)}
        self.flow.buffers_after = tuple(sorted(after - self.flow.leaves.keys()))

    def pass_on(self, tensor: Tensor, repeated: Tensor) -> None:
        """Note that ``repeated`` is ``tensor`` again, as a tensor of its own."""
        (new,) = self.nodes_of(repeated) or (None,)
        old = self.nodes_of(tensor)
        if new is not None and len(old) == 1:
            self.flow.passed_on[new] = old[0]

    def enter_module(self, name: str) -> None:
        """A module's forward begins."""
        self._stack.append((name, len(self.flow)))

    def leave_module(self, name: str, output: object) -> Visit:
        """A module's forward has ended with ``output``."""
        while self._stack and self._stack[-1][0] != name:  # calls that ended by an exception
            self._stack.pop()
        _, entered = self._stack.pop()
        outputs: list[int | None] = []
        for value in tree_leaves(output):
            nodes = self.nodes_of(value) if isinstance(value, Tensor) and self._seen(value) else []
            if isinstance(value, Tensor) and len(nodes) != 1:
                # A constant, or an alias of something written: it gets a node of its own to stand at the cut.
                nodes = [self._new(value, nodes)]
                self._node[value] = nodes[0]
            outputs.append(nodes[0] if nodes else None)
        visit = Visit(
            module=name,
            caller=self._stack[-1][0] if self._stack else "",
            entered=entered,
            left=len(self.flow),
            outputs=tuple(outputs),
            form=OutputForm.of(output),
            grad_enabled=torch.is_grad_enabled(),
        )
        self.flow.visits.setdefault(name, []).append(visit)
        leaves = [value if isinstance(value, Tensor) else None for value in tree_leaves(output)]
        self.flow.gates[name] = [None if leaf is None else leaf.grad_fn for leaf in leaves]
        self.flow.forms[name] = [None if leaf is None else TensorForm(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
        return visit


class _Fresh(torch.autograd.Function):
    """The identity, as an operation of its own, so that an output is told from what was passed on by reference."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return grads


@contextmanager
def watch_modules(watch: Watch, module: nn.Module, names: Iterable[str], *, fresh: bool) -> Iterator[None]:
    """Record the visits to the submodules called ``names`` while the context is entered.

    With ``fresh``, every visited module returns new tensor objects of the same values, so that a later read of a
    tensor the module merely passed on is seen to go around it.
    """
    handles = ExitStack()
    with handles:
        for name in names:
            submodule = module.get_submodule(name)
            before = submodule.register_forward_pre_hook(_before(watch, name))
            after = submodule.register_forward_hook(_after(watch, name, fresh))
            handles.callback(before.remove)
            handles.callback(after.remove)
        yield


def _before(watch: Watch, name: str) -> Callable[..., None]:
    return lambda *_: watch.enter_module(name)


def _after(watch: Watch, name: str, fresh: bool) -> Callable[..., Any]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        if fresh and torch.is_grad_enabled():
            leaves, spec = tree_flatten(output)
            places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            if places:
                for place, tensor in zip(places, _Fresh.apply(*(leaves[p] for p in places)), strict=True):
                    watch.pass_on(leaves[place], tensor)
                    leaves[place] = tensor
                output = tree_unflatten(leaves, spec)
        watch.leave_module(name, output)
        return output

    return hook


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other storage-less layouts
        return -id(tensor)


def _written_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes in place, by its schema."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    written: list[Tensor] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written.extend(tensor for tensor in tree_leaves(value) if isinstance(tensor, Tensor))
    return written
