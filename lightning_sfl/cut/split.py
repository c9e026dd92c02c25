"""Whose is what at one cut: a :class:`Split`, read off the dataflow of a watched step.

The client computes everything the cut module's output was computed from. The server computes everything that ran after
the cut and, again, whatever ran before it and is needed there without having come through the cut: such values may
stem from labels, masks and constants, never from what is private. Parameters belong to the side that reads them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from lightning_sfl.cut.dataflow import Dataflow, LeafKind, OutputForm, Visit
from lightning_sfl.cut.errors import CutError


class Crossing(Enum):
    """What a batch tensor is that crosses to the server beside the smashed data.

    A label meets nothing but the loss. A mask steers the server's layers and is no input of the model in itself. An
    input is what the cut is to keep private; it crosses only where the user allows it.
    """

    LABEL = "label"
    MASK = "mask"
    INPUT = "input"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Who owns and who reads what at one cut.

    Attributes:
        cut: Name of the cut module.
        smashed: Places, in the cut module's flattened output, of the tensors that the server reads.
        form: How that output is put together.
        client_parameters: Names of the parameters the client holds, frozen ones included.
        server_parameters: Names of all other parameters.
        client_buffers: Names of the buffers the client holds.
        server_buffers: Names of the buffers the server holds; constants that both sides read stand in both.
        crossing: Batch tensors that the server half reads, and as what they cross.
        private: Batch tensors that stay with the client.
        stubs: Modules the server replaces by their output shape when it runs alone: what ran before the cut only.
    """

    cut: str
    smashed: tuple[int, ...]
    form: OutputForm
    client_parameters: tuple[str, ...]
    server_parameters: tuple[str, ...]
    client_buffers: tuple[str, ...]
    server_buffers: tuple[str, ...]
    crossing: dict[str, Crossing]
    private: tuple[str, ...]
    stubs: tuple[str, ...]


def split_at(
    flow: Dataflow,
    cut: str,
    module: nn.Module,
    batch: Mapping[str, Tensor],
    server_inputs: Sequence[str] = (),
) -> Split:
    """Work out the split of a watched step at the module named ``cut``.

    Args:
        flow: The step's dataflow, with the visits to the cut module.
        cut: Name of the cut module.
        module: The module that was watched.
        batch: The watched batch's tensors by name.
        server_inputs: Model inputs that may cross to the server all the same.

    Raises:
        CutError: No valid split there; the message says why.
    """
    visit = _the_visit(flow, cut)
    outputs = frozenset(node for node in visit.outputs if node is not None)
    if not outputs:
        raise CutError(f"cut={cut!r}: the output of this module holds no tensor that could cross to the server.")
    client = flow.ancestors(outputs)
    server = flow.ancestors([*_ends(flow, visit, client), *_late_reads(flow, visit)], outputs)
    smashed = _read_outputs(flow, server, visit)
    if not smashed or set(flow.loss) <= outputs:
        raise CutError(f"cut={cut!r}: nothing behind this module is computed from its output, the server has no work.")
    if not any(leaf.kind is LeafKind.BATCH for node, leaf in flow.leaves.items() if node in client):
        raise CutError(f"cut={cut!r}: the output of this module is not computed from the batch.")
    _check_paths_around(flow, cut, client, server)
    _check_shared_parameters(flow, cut, client, server)

    stubs = _stubs(flow, cut, visit, server, [name for name, _ in module.named_modules()])
    crossing = _crossing(flow, cut, client, server, stubs, batch)
    forbidden = [name for name, kind in crossing.items() if kind is Crossing.INPUT and name not in server_inputs]
    if forbidden:
        raise CutError(
            f"cut={cut!r}: the server half reads {_quoted(forbidden)}, an input of the model that the cut is to keep"
            f" private (or labels equal to it). Cut elsewhere, or allow it with server_inputs={tuple(forbidden)!r}."
        )
    if not flow.leaves_among(client, LeafKind.PARAMETER):
        raise CutError(f"cut={cut!r}: no parameter is read before it, the client would have no model.")
    whose = _Whose(
        client={leaf.name for node, leaf in flow.leaves.items() if node in client and leaf.kind is not LeafKind.BATCH},
        server={leaf.name for node, leaf in flow.leaves.items() if node in server and leaf.kind is not LeafKind.BATCH},
    )
    parameters = [name for name, _ in module.named_parameters()]
    buffers = [name for name, _ in module.named_buffers()]
    return Split(
        cut=cut,
        smashed=smashed,
        form=visit.form,
        client_parameters=tuple(name for name in parameters if whose.is_client(name)),
        server_parameters=tuple(name for name in parameters if not whose.is_client(name)),
        client_buffers=tuple(name for name in buffers if whose.is_client(name)),
        server_buffers=tuple(name for name in buffers if not whose.is_client(name) or name in whose.server),
        crossing=crossing,
        private=tuple(name for name in batch if name not in crossing),
        stubs=stubs,
    )


def _ends(flow: Dataflow, visit: Visit, client: set[int]) -> list[int]:
    """What the server works for: the loss, and buffers written behind the cut.

    What is computed behind the cut and reaches neither, as values that are only logged, is not followed.
    """
    written = [node for node in flow.buffers_after if node >= visit.left]
    return [*(node for node in flow.loss if node not in client), *written]


def _the_visit(flow: Dataflow, cut: str) -> Visit:
    visits = [visit for visit in flow.visits.get(cut, ()) if visit.grad_enabled]
    if not visits:
        raise CutError(
            f"cut={cut!r}: the training step never calls this module with gradients enabled, nothing can cross."
        )
    if len(visits) > 1:
        places = ", ".join(repr(visit.caller) if visit.caller else "the training step" for visit in visits)
        raise CutError(
            f"cut={cut!r}: the training step visits this module {len(visits)} times (called from {places}); a cut is a"
            " module visited once."
        )
    return visits[0]


def _late_reads(flow: Dataflow, visit: Visit) -> list[int]:
    """What Python read out of tensors behind the cut."""
    return [read.node for read in flow.scalar_reads if read.time >= visit.left]


def _read_outputs(flow: Dataflow, server: set[int], visit: Visit) -> tuple[int, ...]:
    """Places of the cut module's outputs that the server reads."""
    read = {parent for node in server for parent in flow.parents[node]}
    return tuple(place for place, node in enumerate(visit.outputs) if node is not None and node in read)


def _check_paths_around(flow: Dataflow, cut: str, client: set[int], server: set[int]) -> None:
    trained, fed = flow.from_parameters, flow.from_batch
    if any(node not in flow.leaves and trained[node] and fed[node] for node in client & server):
        raise CutError(
            f"cut={cut!r}: a path leads around this module (a residual connection, or a value kept from before it), so"
            " what the server needs would not all cross here."
        )


def _check_shared_parameters(flow: Dataflow, cut: str, client: set[int], server: set[int]) -> None:
    shared = flow.leaves_among(client & server, LeafKind.PARAMETER)
    if shared:
        tied = [flow.aliases[name] for name in shared if len(flow.aliases[name]) > 1]
        if tied:
            names = "; ".join(" = ".join(map(repr, aliases)) for aliases in tied)
            raise CutError(
                f"cut={cut!r}: both sides need the same weights, tied across the cut ({names}). Untie them, or keep"
                " both ends with the client (a U-shape)."
            )
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise CutError(
            f"cut={cut!r}: both sides read the same weights ({_quoted(shared[:3])}{more}). Where the loss holds a"
            " penalty on the weights, give it to the optimizer as weight_decay; else cut elsewhere."
        )


def _crossing(
    flow: Dataflow, cut: str, client: set[int], server: set[int], stubs: Sequence[str], batch: Mapping[str, Tensor]
) -> dict[str, Crossing]:
    """Which batch tensors the server half reads, and as what."""
    visit = _the_visit(flow, cut)
    by_client = set(flow.leaves_among(client, LeafKind.BATCH))
    by_server = set(flow.leaves_among(server, LeafKind.BATCH))
    inputs = _model_inputs(flow, client, batch) & by_client
    # A mask that Python looked at before the cut steers the program on both sides, unless the server skips that module.
    skipped = {cut, *stubs}
    early = [read.node for read in flow.scalar_reads if read.time < visit.left and not read.modules & skipped]
    looked_at = {name for name in flow.leaves_among(flow.ancestors(early), LeafKind.BATCH) if name not in inputs}
    masks = by_client | (looked_at - by_server) | _steering(flow, server)
    by_server |= looked_at
    crossing: dict[str, Crossing] = {}
    for name in batch:
        if name not in by_server:
            continue
        if name in inputs or any(_gives_away(batch[name], batch[other]) for other in inputs if other != name):
            crossing[name] = Crossing.INPUT
        else:
            crossing[name] = Crossing.MASK if name in masks else Crossing.LABEL
    return crossing


def _steering(flow: Dataflow, server: set[int]) -> set[str]:
    """The batch tensors from which the server computes something that goes on to meet weights: masks, not labels."""
    trained, fed, sizes = flow.from_parameters, flow.from_batch, flow.sizes
    found: set[str] = set()
    for node in server:
        # Single numbers are left out: a loss meets a penalty on the weights without steering any layer.
        parents = [p for p in flow.parents[node] if sizes[p] > 1]
        if any(trained[p] and not fed[p] for p in parents):
            found.update(*(fed[p] for p in parents))
    return found


def _model_inputs(flow: Dataflow, client: set[int], batch: Mapping[str, Tensor]) -> set[str]:
    """The batch tensors whose content the client half feeds to its weights: pixels, token ids.

    Floating tensors count always. An integer or boolean one counts when it (or what was computed from it alone) meets
    a parameter directly, as token ids meet an embedding; a mask meets activations.
    """
    trained, fed = flow.from_parameters, flow.from_batch
    found = {name for name, tensor in batch.items() if tensor.is_floating_point() or tensor.is_complex()}
    for node in client:
        parents = flow.parents[node]
        if any(trained[p] and not fed[p] for p in parents):
            for parent in parents:
                if not trained[parent]:
                    found |= fed[parent]
    return found


def _gives_away(label: Tensor, private: Tensor) -> bool:
    """Whether a label is the private tensor itself, or that tensor shifted by one place along its last dimension.

    Places that the label leaves out (-100, the ignored index) do not count.
    """
    if label.dtype != private.dtype or label.ndim != private.ndim or label.ndim == 0:
        return False
    return any(
        _equal_where_kept(ours, theirs)
        for ours, theirs in (
            (label, private),
            (label[..., :-1], private[..., 1:]),  # the next token, as long as the input
            (label, private[..., 1:]),  # the next token, one shorter
        )
    )


def _equal_where_kept(label: Tensor, private: Tensor) -> bool:
    if label.shape != private.shape or label.numel() < 2:
        return False
    kept = label != -100
    return bool(kept.any()) and torch.equal(label[kept], private[kept])


class _Whose:
    """Ownership of parameters and buffers by name; what the step did not read goes where its module belongs."""

    def __init__(self, client: set[str], server: set[str]) -> None:
        self.client = client
        self.server = server

    def is_client(self, name: str) -> bool:
        if name in self.client:
            return True
        if name in self.server:
            return False
        scope = name
        while scope:
            scope = scope.rpartition(".")[0]
            prefix = scope + "." if scope else ""
            near_client = any(other.startswith(prefix) for other in self.client)
            near_server = any(other.startswith(prefix) for other in self.server)
            if near_client or near_server:
                return near_client and not near_server
        return False


def _stubs(flow: Dataflow, cut: str, cut_visit: Visit, server: set[int], modules: list[str]) -> tuple[str, ...]:
    """The outermost modules that ran before the cut only and whose work the server does not need."""
    stubs: list[str] = []
    for name in modules:
        inside = cut == name or cut.startswith(name + ".") or name.startswith(cut + ".") or not name
        if inside or any(name.startswith(stub + ".") for stub in stubs):
            continue
        visits = flow.visits.get(name, [])
        early = bool(visits) and all(visit.left <= cut_visit.entered for visit in visits)
        if early and not any(node in server for visit in visits for node in range(visit.entered, visit.left)):
            stubs.append(name)
    return tuple(stubs)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
