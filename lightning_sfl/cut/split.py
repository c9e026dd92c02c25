"""Whose is what at one cut: a :class:`Split`, read off the dataflow of a watched step.

The client computes everything the cut module's output was computed from. The server computes everything that ran after
the cut and, again, whatever ran before it and is needed there without having come through the cut: such values may
stem from labels, masks and constants, never from what is private. Parameters belong to the side that reads them.

With a second cut, the U-shape, the server computes the second module's output, and the client goes on from there to the
loss: labels, and weights that both ends of the model read, stay with it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_sfl.cut.crossing import Crossing, crossing_tensors
from lightning_sfl.cut.dataflow import Dataflow, LeafKind, OutputForm, Visit
from lightning_sfl.cut.errors import CutError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Return:
    """The second cut of a U-shape, where the client takes over again.

    Attributes:
        cut: Name of the module that ends the server's part.
        outputs: Places, in that module's flattened output, of the tensors that the client reads.
        form: How that output is put together.
        stubs: Modules the client replaces by their output shape when it runs alone: the server's.
    """

    cut: str
    outputs: tuple[int, ...]
    form: OutputForm
    stubs: tuple[str, ...]


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
        back: The second cut of a U-shape; None where the server computes the loss.
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
    back: Return | None = None


def split_at(
    flow: Dataflow,
    cut: str,
    module: nn.Module,
    batch: Mapping[str, Tensor],
    server_inputs: Sequence[str] = (),
    last: str | None = None,
) -> Split:
    """Work out the split of a watched step at the module named ``cut``.

    Args:
        flow: The step's dataflow, with the visits to the cut module.
        cut: Name of the cut module.
        module: The module that was watched.
        batch: The watched batch's tensors by name.
        server_inputs: Model inputs that may cross to the server all the same.
        last: Name of the second cut module, for a U-shape.

    Raises:
        CutError: No valid split there; the message says why.
    """
    visit = _the_visit(flow, cut)
    modules = [name for name, _ in module.named_modules()]
    if last is None:
        sides, where = _two_sides(flow, visit), f"cut={cut!r}"
    else:
        sides, where = _u_shape(flow, visit, _the_visit(flow, last)), f"cut={(cut, last)!r}"
    smashed = _read_outputs(flow, sides.server, visit)
    if not any(leaf.kind is LeafKind.BATCH for node, leaf in flow.leaves.items() if node in sides.before):
        raise CutError(f"{where}: the output of {cut!r} is not computed from the batch.")
    around = "this module" if last is None else repr(cut)
    _check_paths_around(flow, f"{where}: a path leads around {around}", sides.before, sides.server)
    client = sides.before | sides.after
    _check_shared_parameters(flow, where, client, sides.server)

    kept = {cut, *_around(cut)}
    stubs = _stubs(flow, kept, modules, sides.server, since=0, until=visit.entered)
    crossing = crossing_tensors(flow, visit, sides.before, sides.server, stubs, batch)
    if last is not None:
        crossing = _without_labels(flow, sides, crossing)
    forbidden = [name for name, kind in crossing.items() if kind is Crossing.INPUT and name not in server_inputs]
    if forbidden:
        raise CutError(
            f"{where}: the server half reads {_quoted(forbidden)}, an input of the model that the cut is to keep"
            f" private (or labels equal to it). Cut elsewhere, or allow it with server_inputs={tuple(forbidden)!r}."
        )
    if not flow.leaves_among(sides.before, LeafKind.PARAMETER):
        raise CutError(f"{where}: no parameter is read before it, the client would have no model.")
    whose = _Whose(client=_held(flow, client), server=_held(flow, sides.server))
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
        back=None if last is None else _return(flow, visit, _the_visit(flow, last), client, modules),
    )


@dataclasses.dataclass(frozen=True)
class _Sides:
    """Who computes which nodes: the client before the cut, the server, and the client again after a second cut."""

    before: set[int]
    server: set[int]
    after: set[int] = dataclasses.field(default_factory=set)


def _two_sides(flow: Dataflow, visit: Visit) -> _Sides:
    """One cut: the server computes the loss.

    Raises:
        CutError: It has nothing to compute.
    """
    outputs = _nodes(visit)
    before = flow.ancestors(outputs)
    server = flow.ancestors([*_ends(flow, visit, before), *_reads(flow, visit.left)], outputs)
    if not _read_outputs(flow, server, visit) or set(flow.loss) <= outputs:
        raise CutError(
            f"cut={visit.module!r}: nothing behind this module is computed from its output, the server has no work."
        )
    return _Sides(before, server)


def _u_shape(flow: Dataflow, visit: Visit, last: Visit) -> _Sides:
    """Two cuts: the server computes the second module's output from the first's, and the client the loss from that.

    Raises:
        CutError: The cuts do not lie one behind the other, or a path leads around the second.
    """
    where = f"cut={(visit.module, last.module)!r}"
    outputs, returned = _nodes(visit), _nodes(last)
    before = flow.ancestors(outputs)
    after = flow.ancestors([*_ends(flow, last, before), *_reads(flow, last.left)], returned)
    crossing = [last.outputs[place] for place in _read_outputs(flow, after, last)]
    written = [node for node in flow.buffers_after if visit.left <= node < last.left]
    reads = _reads(flow, visit.left, last.left)
    server = flow.ancestors([*(node for node in crossing if node is not None), *written, *reads], outputs)
    if not _read_outputs(flow, server, visit):
        raise CutError(
            f"{where}: nothing that ends with {last.module!r} is computed from the output of {visit.module!r}; the cuts"
            " are in the wrong order, overlap, or end at the same tensor. Give the one that runs first, then a later."
        )
    if not flow.leaves_among(server, LeafKind.PARAMETER):
        raise CutError(f"{where}: no parameter is read between them, the server would have no model.")
    _check_paths_around(flow, f"{where}: a path leads around {last.module!r}", server, after)
    sent = {visit.outputs[place] for place in _read_outputs(flow, server, visit)}
    # Its gradient would come from both, and only the server's share is to cross.
    if any(node is not None and flow.from_parameters[node] for node in sent & after):
        raise CutError(
            f"{where}: the client's second part reads the output of {visit.module!r} too, which the server reads (a"
            " skip connection from the very tensor that crosses). Cut at a module behind it, whose output goes to the"
            " server alone; the skip connection then stays with the client."
        )
    return _Sides(before, server, after)


def _without_labels(flow: Dataflow, sides: _Sides, crossing: Mapping[str, Crossing]) -> dict[str, Crossing]:
    """What crosses in a U-shape, where what first meets the loss is to stay with the client like an input."""
    labels = set(flow.leaves_among(sides.after, LeafKind.BATCH)) - set(flow.leaves_among(sides.before, LeafKind.BATCH))
    masks = {name: Crossing.MASK if kind is Crossing.LABEL else kind for name, kind in crossing.items()}
    return {name: Crossing.INPUT if name in labels else kind for name, kind in masks.items()}


def _return(flow: Dataflow, visit: Visit, last: Visit, client: set[int], modules: list[str]) -> Return:
    kept = {visit.module, *_around(visit.module), *_around(last.module)}
    return Return(
        cut=last.module,
        outputs=_read_outputs(flow, client, last),
        form=last.form,
        stubs=_stubs(flow, kept, modules, client, since=visit.left, until=last.left),
    )


def _nodes(visit: Visit) -> frozenset[int]:
    """The nodes of a cut module's output.

    Raises:
        CutError: There are none.
    """
    nodes = frozenset(node for node in visit.outputs if node is not None)
    if not nodes:
        raise CutError(
            f"cut={visit.module!r}: the output of this module holds no tensor that could cross to the server."
        )
    return nodes


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


def _reads(flow: Dataflow, since: int, until: int | None = None) -> list[int]:
    """What Python read out of tensors from one time on, until another."""
    reads = [read for read in flow.scalar_reads if read.time >= since]
    return [read.node for read in reads if until is None or read.time < until]


def _read_outputs(flow: Dataflow, server: set[int], visit: Visit) -> tuple[int, ...]:
    """Places of the cut module's outputs that the server reads."""
    read = {parent for node in server for parent in flow.parents[node]}
    return tuple(place for place, node in enumerate(visit.outputs) if node is not None and node in read)


def _check_paths_around(flow: Dataflow, what: str, near: set[int], far: set[int]) -> None:
    trained, fed = flow.from_parameters, flow.from_batch
    if any(node not in flow.leaves and trained[node] and fed[node] for node in near & far):
        raise CutError(
            f"{what} (a residual connection, or a value kept from before it), so what is needed behind it would not all"
            " cross there."
        )


def _check_shared_parameters(flow: Dataflow, where: str, client: set[int], server: set[int]) -> None:
    shared = flow.leaves_among(client & server, LeafKind.PARAMETER)
    if shared:
        tied = [flow.aliases[name] for name in shared if len(flow.aliases[name]) > 1]
        if tied:
            names = "; ".join(" = ".join(map(repr, aliases)) for aliases in tied)
            raise CutError(
                f"{where}: both sides need the same weights, tied across the cut ({names}). Untie them, or keep"
                " both ends with the client: cut=(first, last), a U-shape."
            )
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise CutError(
            f"{where}: both sides read the same weights ({_quoted(shared[:3])}{more}). Where the loss holds a"
            " penalty on the weights, give it to the optimizer as weight_decay; else cut elsewhere."
        )


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


def _held(flow: Dataflow, nodes: set[int]) -> set[str]:
    """Names of the parameters and buffers among the nodes."""
    return {leaf.name for node, leaf in flow.leaves.items() if node in nodes and leaf.kind is not LeafKind.BATCH}


def _around(name: str) -> list[str]:
    """The modules that a module lies in, the whole one first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _stubs(
    flow: Dataflow, kept: set[str], modules: list[str], needed: set[int], *, since: int, until: int
) -> tuple[str, ...]:
    """The outermost modules, but for those to be kept, that ran between two times only and do no work needed here."""
    stubs: list[str] = []
    for name in modules:
        if name in kept or any(name.startswith(stub + ".") for stub in stubs):
            continue
        visits = flow.visits.get(name, [])
        between = bool(visits) and all(since <= visit.entered and visit.left <= until for visit in visits)
        if between and not any(node in needed for visit in visits for node in range(visit.entered, visit.left)):
            stubs.append(name)
    return tuple(stubs)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
