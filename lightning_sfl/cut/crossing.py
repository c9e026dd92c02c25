"""Which batch tensors cross to the server beside the smashed data, and as what."""

from collections.abc import Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor

from lightning_sfl.cut.dataflow import Dataflow, LeafKind, Visit


class Crossing(Enum):
    """What a batch tensor is that crosses to the server beside the smashed data.

    A label meets nothing but the loss. A mask steers the server's layers and is no input of the model in itself. An
    input is what the cut is to keep private: what the client feeds to its weights, and floating numbers that the server
    feeds to its own; it crosses only where the user allows it.
    """

    LABEL = "label"
    MASK = "mask"
    INPUT = "input"


def crossing_tensors(
    flow: Dataflow, visit: Visit, client: set[int], server: set[int], stubs: Sequence[str], batch: Mapping[str, Tensor]
) -> dict[str, Crossing]:
    """Which batch tensors the server half reads, and as what.

    Args:
        flow: The step's dataflow.
        visit: The visit to the cut module.
        client: What was computed before the cut.
        server: What the server computes.
        stubs: Modules that the server replaces by their output shape.
        batch: The batch's tensors by name.
    """
    by_client = set(flow.leaves_among(client, LeafKind.BATCH))
    by_server = set(flow.leaves_among(server, LeafKind.BATCH))
    inputs = _model_inputs(flow, client, batch) & by_client
    # One that the client does not read at all, of a model with several inputs.
    inputs |= {name for name in _fed_to_weights(flow, server) if batch[name].is_floating_point()}
    # A mask that Python looked at before the cut steers the program on both sides, unless the server skips that module.
    skipped = {visit.module, *stubs}
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
    found = {name for name, tensor in batch.items() if tensor.is_floating_point() or tensor.is_complex()}
    return found | _fed_to_weights(flow, client)


def _fed_to_weights(flow: Dataflow, nodes: set[int]) -> set[str]:
    """The batch tensors that (or what was computed from them alone) meet a parameter directly among the nodes."""
    trained, fed = flow.from_parameters, flow.from_batch
    found: set[str] = set()
    for node in nodes:
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
