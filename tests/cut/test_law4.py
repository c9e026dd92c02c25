"""Law 4: halt and inject, run apart, equal pass; and nothing private is read behind the cut unless it crossed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import BERT, KINDS, LLAMA, RESNET, VGG, sgd
from torch import nn

from lightning_sfl.cut.batch import named_tensors, replace_tensors
from lightning_sfl.cut.find import search
from lightning_sfl.cut.modes import PassHook, halt, inject
from lightning_sfl.random_state import RandomState


class KeepingCarrier:
    """Hands everything over and keeps it."""

    def __init__(self) -> None:
        self.smashed: tuple[torch.Tensor, ...] = ()
        self.gradient: tuple[torch.Tensor | None, ...] = ()

    def carry(self, smashed):
        self.smashed = tuple(tensor.clone() for tensor in smashed)
        return smashed

    def carry_back(self, cut_gradient):
        self.gradient = tuple(None if tensor is None else tensor.clone() for tensor in cut_gradient)
        return cut_gradient


def whole_step(module, split, batch):
    """One step in pass mode; returns loss, gradients, buffers and what crossed."""
    carrier = KeepingCarrier()
    with PassHook(module, split.cut, split.smashed).forward(carrier):
        loss = module.training_step(batch, 0)
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, dict(module.named_buffers()), carrier


def unlogged(module):
    """A copy without a trainer does not log."""
    copied = copy.deepcopy(module)
    copied.log = lambda *_, **__: None
    return copied


def halved_step(module, split, batch):
    """The same step by two copies of the module, one per side, that share messages only."""
    client, server = unlogged(module), unlogged(module)
    for name in split.client_parameters:  # the server has none of the client's weights
        server.get_parameter(name).data.fill_(float("nan"))
    for name in split.server_parameters:  # and the client none of the server's
        client.get_parameter(name).data.fill_(float("nan"))
    halted = halt(client, split, lambda: client.training_step(batch, 0))
    crossed = {name: tensor for name, tensor in named_tensors(batch).items() if name in split.crossing}
    garbage = {
        name: torch.full_like(tensor, 7) for name, tensor in named_tensors(batch).items() if name not in split.crossing
    }
    at_server = replace_tensors(batch, {**garbage, **crossed})
    injected = inject(
        server,
        split,
        lambda received: server.training_step(received, 0),
        at_server,
        [tensor.detach() for tensor in halted.smashed],
        random_state=halted.random_state,
    )
    injected.output.backward()
    halted.backward([tensor.grad for tensor in injected.received])
    gradients = {name: server.get_parameter(name).grad for name in split.server_parameters}
    gradients |= {name: client.get_parameter(name).grad for name in split.client_parameters}
    buffers = {name: server.get_buffer(name) for name in split.server_buffers}
    buffers |= {name: client.get_buffer(name) for name in split.client_buffers}
    return injected.output.detach(), gradients, buffers, injected, halted


@pytest.mark.parametrize(("kind", "cut"), [(kind, cut) for kind in KINDS for cut in kind.cuts])
@settings(max_examples=3)
@given(size=st.integers(2, 6), seed=st.integers(0, 3))
def test_the_halves_run_apart_equal_the_whole(kind, cut, size, seed):
    """Bit for bit: loss, both sides' gradients, the cut gradient and the buffers, with dropout, on drawn shapes.

    The split is learnt on a batch of another size and sequence length than the one that is stepped, so a stub that
    replays a recorded shape would fail.
    """
    module = kind.module(sgd, seed=seed)
    split = search(module, kind.batch(3), server_inputs=kind.server_inputs).split(cut)
    batch = kind.batch(size)
    torch.manual_seed(11)
    start = RandomState.capture()
    apart = halved_step(module, split, batch)
    start.restore()
    whole = whole_step(unlogged(module), split, batch)
    assert torch.equal(apart[0], whole[0])
    read = {name for name, grad in apart[1].items() if grad is not None}
    assert read == set(whole[1])
    for name in read:
        assert torch.equal(apart[1][name], whole[1][name]), name
    for name, buffer in whole[2].items():
        assert torch.equal(apart[2][name], buffer), name
    for ours, theirs in zip(apart[4].smashed, whole[3].smashed, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip([tensor.grad for tensor in apart[3].received], whole[3].gradient, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("kind", "cut"), [(VGG, VGG.cuts[0]), (RESNET, RESNET.cuts[1]), (BERT, BERT.cuts[1])])
def test_the_smashed_data_are_taken_before_the_server_writes_in_place(kind, cut):
    """Behind these cuts the program goes on in place or could; what crossed is the cut module's own output."""
    module = unlogged(kind.module(sgd))
    split = search(module, kind.batch(3), server_inputs=kind.server_inputs).split(cut)
    carrier = KeepingCarrier()
    torch.manual_seed(0)
    with PassHook(module, cut, split.smashed).forward(carrier):
        module.training_step(kind.batch(3), 0)
    copied = unlogged(kind.module(sgd))
    torch.manual_seed(0)
    halted = halt(copied, split, lambda: copied.training_step(kind.batch(3), 0))
    assert torch.equal(halted.smashed[0], carrier.smashed[0])


def test_halt_passes_through_user_code_that_catches_exceptions():
    module = unlogged(VGG.module(sgd))
    split = search(module, VGG.batch()).split("model.2")

    def careful_step():
        try:
            return module.training_step(VGG.batch(), 0)
        except Exception:  # the careless user code that a halt must pass through
            return None

    assert halt(module, split, careful_step).smashed[0].shape == (4, 6, 8, 8)


def test_a_stub_follows_the_message_at_hand_and_leaves_no_patch_behind():
    module = unlogged(LLAMA.module(sgd))
    split = search(module, LLAMA.batch(2), server_inputs=("labels",)).split("model.model.layers.1")
    before = {name: vars(part).get("forward") for name, part in module.named_modules()}
    for size in (2, 5, 1):
        batch = LLAMA.batch(size)
        length = batch["input_ids"].shape[1]
        smashed = torch.randn(size, length, 16)
        output = inject(module, split, lambda received: module.training_step(received, 0), batch, [smashed]).output
        assert output.isfinite()
    assert before == {name: vars(part).get("forward") for name, part in module.named_modules()}


def test_the_server_draws_its_own_random_numbers_without_the_clients_state():
    """Across processes no random state is sent; the halves are then equal in distribution only."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return self.b(self.drop(self.a(batch))).sum()

    torch.manual_seed(0)
    module, batch = Dropped(), torch.rand(8, 4)
    split = search(module, batch).split("a")
    halted = halt(module, split, lambda: module.training_step(batch, 0))
    losses = {
        inject(module, split, lambda b: module.training_step(b, 0), batch, halted.smashed).output.item()
        for _ in range(3)
    }
    assert len(losses) == 3


class Counts(nn.Module):
    """Counts its steps before the cut, in place and in a new tensor; nothing but the log behind the cut reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1)
        self.near.register_buffer("passes", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("decay", torch.tensor(1.0))

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.decay = self.decay / 2
        self.near.passes += 1
        return self.far(self.near(batch)).sum()


def test_each_half_leaves_the_other_sides_buffers_as_they_were():
    """Both run the program from its beginning, in one process on one module: each counter counts the step once."""
    module, batch = Counts(), torch.rand(8, 4)
    split = search(module, batch).split("near.0")
    assert split.client_buffers == ("near.passes",)
    assert split.server_buffers == ("steps", "decay")
    buffers = dict(module.named_buffers())
    halted = halt(module, split, lambda: module.training_step(batch, 0))
    assert {name: float(buffer) for name, buffer in module.named_buffers()} == {
        "steps": 0, "decay": 1, "near.passes": 1,
    }  # fmt: skip
    inject(module, split, lambda received: module.training_step(received, 0), batch, halted.smashed)
    assert {name: float(buffer) for name, buffer in module.named_buffers()} == {
        "steps": 1, "decay": 0.5, "near.passes": 1,
    }  # fmt: skip
    assert module.steps is buffers["steps"]
    assert module.near.passes is buffers["near.passes"]


class Anneals(nn.Module):
    """Both sides read a temperature, which falls before the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Linear(4, 4), nn.Linear(4, 1)
        self.register_buffer("temperature", torch.tensor(1.0))

    def training_step(self, batch, batch_idx):
        self.temperature *= 0.5
        return (self.far(self.near(batch / self.temperature)) * self.temperature).sum()


def test_a_buffer_that_both_sides_read_is_written_by_each():
    module, batch = Anneals(), torch.rand(8, 4)
    split = search(module, batch).split("near")
    assert split.client_buffers == split.server_buffers == ("temperature",)
    client, server, whole = (copy.deepcopy(module) for _ in range(3))
    halted = halt(client, split, lambda: client.training_step(batch, 0))
    halves = inject(server, split, lambda received: server.training_step(received, 0), batch, halted.smashed)
    assert torch.equal(halves.output, whole.training_step(batch, 0))
    assert float(client.temperature) == float(server.temperature) == 0.5
