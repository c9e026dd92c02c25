"""Two cuts: client, server, client. Laws 4 and what is found, verified and refused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sfl_models import GPT2, MLP, RESNET, TIED_GPT2, TWINS, U_SHAPES, VGG, sgd
from test_law4 import KeepingCarrier, unlogged
from torch import nn

from lightning_sfl.cut.batch import named_tensors, replace_tensors
from lightning_sfl.cut.crossing import Crossing
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.find import search
from lightning_sfl.cut.modes import PassHook, inject, run_around
from lightning_sfl.random_state import RandomState


class Server:
    """The server in a program of its own, which shares messages with the client and nothing else."""

    def __init__(self, module, split, batch) -> None:
        self.module, self.split, self.batch = module, split, batch
        self.gradient = ()

    def carry(self, tensors):
        with torch.enable_grad():  # the client's autograd runs it; a server elsewhere has its own
            self.injected = inject(
                self.module,
                self.split,
                lambda received: self.module.training_step(received, 0),
                self.batch,
                [tensor.detach() for tensor in tensors],
                random_state=RandomState.capture(),
            )
        return self.injected.output.smashed

    def carry_back(self, gradients):
        self.injected.output.backward(gradients)
        self.gradient = tuple(tensor.grad for tensor in self.injected.received)
        return self.gradient


@pytest.mark.parametrize(("kind", "cut"), U_SHAPES, ids=lambda value: getattr(value, "name", None) or "+".join(value))
@settings(max_examples=3)
@given(size=st.integers(2, 6), seed=st.integers(0, 3))
def test_the_parts_run_apart_equal_the_whole(kind, cut, size, seed):
    """Bit for bit: loss, gradients, what crossed and the buffers, with dropout, on drawn shapes.

    Neither side has the other's weights, nor the server a label or an input: NaN and sevens stand there.
    """
    module = kind.module(sgd, seed=seed)
    split = search(module, kind.batch(3), last=cut[1]).split(cut[0])
    batch = kind.batch(size)
    client, server, whole = unlogged(module), unlogged(module), unlogged(module)
    for name in split.client_parameters:
        server.get_parameter(name).data.fill_(float("nan"))
    for name in split.server_parameters:
        client.get_parameter(name).data.fill_(float("nan"))
    assert "labels" not in split.crossing
    assert not set(split.crossing) & {"0", "1", "input_ids"}
    sevens = {n: torch.full_like(t, 7) for n, t in named_tensors(batch).items() if n not in split.crossing}
    other = Server(server, split, replace_tensors(batch, sevens))

    torch.manual_seed(11)
    start = RandomState.capture()
    loss = run_around(client, split, lambda: client.training_step(batch, 0), other)
    loss.backward()
    start.restore()
    first, last = KeepingCarrier(), KeepingCarrier()
    with (
        PassHook(whole, split.cut, split.smashed).forward(first),
        PassHook(whole, split.back.cut, split.back.outputs).forward(last),
    ):
        expected = whole.training_step(batch, 0)
    expected.backward()

    assert torch.equal(loss, expected)
    for ours, theirs in zip(other.gradient, first.gradient, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(other.injected.output.smashed, last.smashed, strict=True):
        assert torch.equal(ours, theirs)
    found = dict.fromkeys(split.server_parameters, server) | dict.fromkeys(split.client_parameters, client)
    for name, parameter in whole.named_parameters():
        gradient = found[name].get_parameter(name).grad
        if gradient is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert torch.equal(gradient, parameter.grad), name
    for names, side in ((split.server_buffers, server), (split.client_buffers, client)):
        for name in names:
            assert torch.equal(side.get_buffer(name), whole.get_buffer(name)), name


def test_tied_embeddings_are_the_clients_at_both_ends():
    """The very weights that forbid any single cut, and the labels equal to the input, stay with the client."""
    module, batch = TIED_GPT2.module(sgd), TIED_GPT2.batch()
    with pytest.raises(CutError, match=r"tied across the cut .*wte.weight.*cut=\(first, last\), a U-shape"):
        search(module, batch, server_inputs=("labels",)).split("model.transformer.h.0")
    split = search(module, batch, last="model.transformer.ln_f").split("model.transformer.h.0")
    assert "model.transformer.wte.weight" in split.client_parameters
    assert "model.transformer.ln_f.weight" in split.server_parameters
    assert split.crossing == {"attention_mask": Crossing.MASK}
    assert set(split.private) == {"input_ids", "labels"}


def test_several_tensors_cross_both_cuts():
    """Two tensors up and two down; a number and a string in the same output do not cross."""
    split = search(TWINS.module(sgd), TWINS.batch(), last="model.second").split("model.first")
    assert len(split.smashed) == len(split.back.outputs) == 2


@pytest.mark.parametrize(
    ("kind", "first", "last", "message"),
    [
        (RESNET, "model.2", "model.0", r"cut=\('model.2', 'model.0'\): .* in the wrong order, overlap, or end"),
        (TIED_GPT2, "model.transformer", "model.transformer.h.1", "wrong order, overlap, or end at the same tensor"),
        (TIED_GPT2, "model.transformer.ln_f", "model.transformer", "no parameter is read between them"),
        (VGG, "model.1", "model.2", "no parameter is read between them, the server would have no model"),
        (RESNET, "model.1.body.0", "model.2", "a path leads around 'model.1.body.0'"),
        (RESNET, "model.0", "model.2.body.1", "a path leads around 'model.2.body.1'"),
        (MLP, "model.1", "model.9", "has no submodule of this name"),
    ],
)
def test_pairs_that_are_no_u_shape_are_refused(kind, first, last, message):
    with pytest.raises(CutError, match=message):
        search(kind.module(sgd), kind.batch(), last=last).split(first)


class Penalised(nn.Module):
    """Its loss reads a weight of the middle layer, or its labels in the middle."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first, self.middle, self.tail = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.first(x)
        if self.fault == "label":
            h = torch.cat([h[:, :2], y.float()[:, None]], dim=1)
        h = self.middle(h)
        loss = nn.functional.cross_entropy(self.tail(h), y)
        return loss + self.middle.weight.square().sum() if self.fault == "penalty" else loss


def test_a_weight_that_the_clients_loss_and_the_server_read_is_refused():
    batch = (torch.rand(4, 4), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(
        CutError, match=r"cut=\('first', 'middle'\): both sides read the same weights \('middle.weight'"
    ):
        search(Penalised("penalty"), batch, last="middle").split("first")


def test_a_label_that_the_server_reads_crosses_only_if_it_is_allowed():
    batch = (torch.rand(4, 4), torch.tensor([0, 1, 1, 0]))
    assert search(Penalised("none"), batch, last="middle").split("first").private == ("0", "1")
    with pytest.raises(CutError, match=r"the server half reads '1'.*server_inputs=\('1',\)"):
        search(Penalised("label"), batch, last="middle").split("first")
    allowed = search(Penalised("label"), batch, last="middle", server_inputs=("1",)).split("first")
    assert "1" in allowed.crossing


def test_every_pair_that_is_listed_runs_apart():
    """For an untied GPT-2 and its final norm, first cuts are those before the second block's end."""
    found = search(GPT2.module(sgd), GPT2.batch(), last="model.transformer.ln_f").cuts()
    names = [cut.name for cut in found]
    assert "model.transformer.h.0" in names
    assert "model.transformer.ln_f" not in names
    for cut in found:
        assert "model.lm_head.weight" in cut.split.client_parameters


class Tokens(nn.Linear):
    """Keeps what it was given beside what it computes on: how many tokens the masks let through, and a mean."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, hidden, beside, mask):
        self.seen += mask.sum()
        self.mean.lerp_(beside.detach().mean(0), 0.5)
        return super().forward(hidden)


class Doubles(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x):
        hidden = super().forward(x)
        return hidden, hidden * 2


class Keeps(nn.Module):
    """Its middle layer writes buffers of what nothing else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.tail = Doubles(), Tokens(), nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        hidden, beside = self.first(batch["x"])
        return nn.functional.cross_entropy(self.tail(self.middle(hidden, beside, batch["mask"])), batch["y"])


def test_what_the_servers_buffers_are_written_from_crosses():
    """Nothing else reads the mask, nor the second output of the first part."""
    torch.manual_seed(0)
    module = Keeps()
    batch = {"x": torch.rand(4, 4), "mask": torch.tensor([[1, 0], [1, 1], [0, 0], [1, 1]]), "y": torch.arange(4) % 2}
    split = search(module, batch, last="middle").split("first")
    assert split.crossing == {"mask": Crossing.MASK}
    assert split.smashed == (0, 1)
    assert split.server_buffers == ("middle.seen", "middle.mean")
    client, whole = copy.deepcopy(module), copy.deepcopy(module)
    blank = {**batch, "x": torch.full((4, 4), 7.0), "y": torch.full((4,), 7)}
    run_around(client, split, lambda: client.training_step(batch, 0), Server(module, split, blank))
    whole.training_step(batch, 0)
    assert int(module.middle.seen) == 5
    assert torch.equal(module.middle.mean, whole.middle.mean)
