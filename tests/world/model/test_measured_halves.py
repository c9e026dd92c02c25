"""The profile against what halves really do: run alone, on real tensors, cut by cut."""

from typing import Any

import numpy as np
import pytest
import torch
from real_halves import RealHalf
from sfl_models import KINDS, KINDS_WITH_SLOW, LLAMA, RESNET, Kind, adamw, sgd
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from world_cases import world

from lightning_sfl.cut.batch import copied_batch, named_tensors, replace_tensors
from lightning_sfl.cut.find import Cut, copied_module, search, training_step
from lightning_sfl.cut.modes import halt, inject
from lightning_sfl.cut.split import Split
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import at

SIZES = (1, 4, 7)
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")


def sized(kind: Kind, size: int) -> Any:
    """The kind's batch with so many records, over and over the same: texts of other records have other lengths."""
    batch = kind.batch()
    places = torch.arange(size) % 4
    return replace_tensors(batch, {name: tensor[places] for name, tensor in named_tensors(batch).items()})


def splits_of(cuts: list[Cut]) -> dict[str, Split]:
    return {cut.name: cut.split for cut in cuts}


@pytest.mark.parametrize("kind", KINDS_WITH_SLOW, ids=lambda kind: kind.name)
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
def test_client_memory_is_what_a_half_alone_takes(kind, make_optimizer):
    """Within 5 % (10 % are allowed), training and forward only, at every valid cut. Where a module's output is read
    twice behind the cut, the whole keeps one activation more than its half does."""
    module = kind.module(make_optimizer)
    optimizer = make_optimizer(module.parameters())
    cuts = search(module, kind.batch(), server_inputs=kind.server_inputs).cuts()
    found = profile_cuts(module, kind.batch(), splits_of(cuts), optimizer)
    for place, cut in enumerate(cuts):
        for size in SIZES if cut is cuts[-1] else SIZES[-1:]:
            half = RealHalf(module, cut.split, sized(kind, size), optimizer)
            assert found.training_memory_byte(place, size) == pytest.approx(half.peak_byte(half.train), rel=0.05)
            assert found.forward_memory_byte(place, size) == pytest.approx(
                half.peak_byte(half.forward, with_state=False), rel=0.05
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_memory_of_a_client_that_probes_is_what_a_half_alone_takes(kind):
    """Within 5 %, at every valid cut."""
    module = kind.module(adamw)
    optimizer = adamw(module.parameters())
    cuts = search(module, kind.batch(), server_inputs=kind.server_inputs).cuts()
    asked = world("ho_sfl", profile=profile_cuts(module, kind.batch(), splits_of(cuts), optimizer))
    for place, cut in enumerate(cuts):
        half = RealHalf(module, cut.split, sized(kind, 7), optimizer)
        found = float(asked.memory_at(np.array([place]), np.array([7]))[0])
        assert found == pytest.approx(half.peak_byte(half.probe), rel=0.05)


@pytest.mark.parametrize("kind", KINDS_WITH_SLOW, ids=lambda kind: kind.name)
def test_flops_and_bits_are_those_of_halves_run_apart(kind):
    """The naive way, one cut and batch at a time on real tensors, finds the very numbers of one run for all cuts."""
    module = kind.module(sgd)
    cuts = search(module, kind.batch(), server_inputs=kind.server_inputs).cuts()
    found = profile_cuts(module, kind.batch(), splits_of(cuts))
    for place, cut in enumerate(cuts):
        batch = sized(kind, 5)
        smashed, *counted = apart(module, cut.split, batch)
        sides = (found.client_forward_flop, found.client_backward_flop, found.server_forward_flop)
        assert [at(side[place], 5) for side in (*sides, found.server_backward_flop)] == counted
        assert at(found.smashed_bit[place], 5) == 8 * _byte(smashed)
        crossing = [tensor for name, tensor in named_tensors(batch).items() if name in cut.split.crossing]
        assert at(found.beside_bit[place], 5) == 8 * _byte(crossing)


def apart(module: nn.Module, split: Split, batch: Any) -> tuple[Any, ...]:
    """The smashed data, and FLOPs: client forward and backward, server forward and backward."""
    forward, backward, whole, server_back = (FlopCounterMode(display=False) for _ in range(4))
    client, far = copied_module(module), copied_module(module)
    with forward:
        halted = halt(client, split, lambda: training_step(client, copied_batch(batch)))
    with whole:
        training_step(copied_module(module), copied_batch(batch))
    injected = inject(far, split, lambda given: training_step(far, given), copied_batch(batch), halted.smashed)
    with server_back:
        injected.output.backward()
    with backward:
        halted.backward([tensor.grad for tensor in injected.received])
    # The server's own forward pass would count its stubs as well.
    server = whole.get_total_flops() - forward.get_total_flops()
    return halted.smashed, forward.get_total_flops(), backward.get_total_flops(), server, server_back.get_total_flops()


def _byte(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("kind", [RESNET, LLAMA], ids=lambda kind: kind.name)
def test_a_model_without_weights_has_the_same_cuts_and_the_same_profile(kind):
    """But for an attention mask: the program looks at its values, which steers it, and without values it does not."""
    module, batch = kind.module(adamw), kind.batch()
    if isinstance(batch, dict):
        del batch["attention_mask"]
    cuts = search(module, batch, server_inputs=kind.server_inputs).cuts()
    empty = kind.module(adamw).to("meta")
    same = search(empty, batch, server_inputs=kind.server_inputs).cuts()
    assert same == cuts
    assert [cut.split for cut in same] == [cut.split for cut in cuts]
    one = profile_cuts(module, batch, splits_of(cuts), adamw(module.parameters()))
    other = profile_cuts(empty, batch, splits_of(same), adamw(empty.parameters()))
    for name in vars(one):
        if name not in ("cuts", "whole"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_a_model_without_weights_whose_step_looks_at_values_is_refused():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            hidden = self.first(batch)
            return self.second(hidden).sum() if hidden.sum() > 0 else self.second(-hidden).sum()

    module = Looks()
    cuts = search(module, torch.rand(2, 3)).cuts()
    with pytest.raises(ValueError, match="holds no values, and its training step looks at some"):
        search(module.to("meta"), torch.rand(2, 3))
    with pytest.raises(ValueError, match="holds no values, and its training step looks at some"):
        profile_cuts(module, torch.rand(2, 3), splits_of(cuts))
