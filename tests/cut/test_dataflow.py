"""The watched step: what was computed from what, and that watching changes nothing."""

import pytest
import torch
from sfl_models import KINDS, sgd
from torch import nn

from lightning_sfl.cut.dataflow import LeafKind
from lightning_sfl.cut.watch import Watch, watch_modules


def watched(function, *tensors):
    """Watch ``function`` of named tensors; returns the batch tensors its result was computed from."""
    batch = {chr(ord("a") + place): tensor for place, tensor in enumerate(tensors)}
    watch = Watch(nn.Module(), batch)
    with watch:
        result = function(*tensors)
    flow = watch.flow
    return set(flow.leaves_among(flow.ancestors(watch.nodes_of(result)), LeafKind.BATCH))


A, B = torch.rand(3, 4), torch.rand(3, 4)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a + b, {"a", "b"}),
        (lambda a, b: a.detach() * 2, {"a"}),
        (lambda a, b: torch.zeros_like(a) + b, {"b"}),
        (lambda a, b: a.new_ones(3, 4) * b.shape[0], set()),
        (lambda a, b: torch.zeros(3, 4).copy_(a), {"a"}),
        (lambda a, b: torch.where(a > 0.5, b, 0.0), {"a", "b"}),
        (lambda a, b: torch.cat([a, b])[3:], {"a", "b"}),
        (lambda a, b: a.data + 1, {"a"}),
    ],
    ids=["sum", "detached", "zeros_like", "shape only", "copy", "where", "slice", "data"],
)
def test_values_are_followed_and_shapes_are_not(function, expected):
    assert watched(function, A.clone(), B.clone()) == expected


def test_a_write_through_a_view_reaches_the_whole_tensor():
    def function(a, b):
        whole = torch.zeros(3, 4)
        whole[:, 0] = a[:, 0]
        return whole

    assert watched(function, A.clone(), B.clone()) == {"a"}


def test_an_alias_made_before_a_write_sees_it_and_one_made_after_has_it_once():
    def function(a, b):
        buffer = torch.zeros(3, 4)
        alias = buffer.view(12)
        buffer.add_(a)
        return alias * 1

    assert watched(function, A.clone(), B.clone()) == {"a"}


def test_reads_by_python_are_noted_with_the_module_they_happen_in():
    class Looks(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    module = nn.Module()
    module.looks = Looks()
    batch = torch.rand(2, 2)
    watch = Watch(module, batch)
    with watch_modules(watch, module, ["looks"], fresh=False), watch:
        module.looks(batch)
    (read,) = watch.flow.scalar_reads
    assert read.modules == {"looks"}
    assert watch.flow.leaves_among(watch.flow.ancestors([read.node]), LeafKind.BATCH) == ["batch"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_watched_step_gives_the_very_numbers_of_an_unwatched_one(kind, fresh):
    results = []
    for look in (False, True):
        module, batch = kind.module(sgd), kind.batch()
        module.log = lambda *_, **__: None
        torch.manual_seed(5)
        if look:
            watch = Watch(module, batch)
            with watch_modules(watch, module, [n for n, _ in module.named_modules() if n], fresh=fresh), watch:
                loss = module.training_step(batch, 0)
        else:
            loss = module.training_step(batch, 0)
        loss.backward()
        results.append(
            [
                loss.detach(),
                torch.get_rng_state(),
                *module.buffers(),
                *(p.grad for p in module.parameters() if p.grad is not None),
            ]
        )
    assert len(results[0]) == len(results[1])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
