"""Profiles of programs that checkpoint, cache, keep losses, or step with optimizers that want values or a GPU."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import ASGD, SGD, Adafactor, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from lightning_sfl.cut.find import search
from lightning_sfl.world.model.measure import profile_cuts
from lightning_sfl.world.model.profile import Profile


class Three(nn.Module):
    """Linear 4 to 6, tanh, linear 6 to 5, tanh, linear 5 to 3, with the middle one checkpointed if asked for.

    Forward per sample: 24, 30 and 15 MAC, 48, 60 and 30 FLOP. Backward: a layer's weight gradient costs as much as its
    forward pass, and so does its input gradient, which nobody needs of the first: 48, 120 and 60 FLOP. A checkpointed
    layer computes its forward pass again.
    """

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.middle = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.after = nn.Identity()
        self.head = nn.Linear(5, 3)
        self.reentrant = reentrant

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        h = self.first(x)
        h = self.middle(h) if self.reentrant is None else checkpoint(self.middle, h, use_reentrant=self.reentrant)
        return cross_entropy(self.head(self.after(h)), labels)


def batch(records: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(records, 4), torch.arange(records) % 3


def profiled(module: nn.Module, cut: str, optimizer: Optimizer | None = None) -> Profile:
    return profile_cuts(module, batch(), {cut: search(module, batch()).split(cut)}, optimizer)


# A half behind the cut gets inputs that need no gradient, which reentrant checkpointing warns about.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_what_is_computed_again_is_computed_by_whom_it_belongs_to(reentrant):
    """At the cut behind it the client runs the checkpointed layer twice; at the cut before it the server does."""
    again = 0 if reentrant is None else 60
    behind, before = (profiled(Three(reentrant), cut) for cut in ("after", "first"))

    assert behind.client_backward_flop[0, 1] == 48 + 120 + again
    assert behind.server_backward_flop[0, 1] == 60
    assert before.client_backward_flop[0, 1] == 48
    assert before.server_backward_flop[0, 1] == 120 + 60 + again


def test_a_cut_that_is_passed_again_in_the_backward_pass_is_where_it_was_first():
    """In the checkpointed layer, behind its linear part."""
    found = profiled(Three(reentrant=False), "middle.0")
    assert found.client_forward_flop[0, 1] == 48 + 60
    assert found.server_forward_flop[0, 1] == 30


class Layerwise(Optimizer):
    """Steps by the ratio of the norms of weights and gradient, as LARS and LAMB do, which it reads as a number."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("mean", torch.zeros_like(parameter)).add_(parameter.grad)
                parameter.add_(state["mean"], alpha=-(parameter.norm() / state["mean"].norm()).item())


@pytest.mark.parametrize(
    ("make", "state_byte"),
    [
        # A first layer of 30 parameters in two tensors: so many floats, and per tensor a step count of 4 bytes.
        (lambda params: AdamW(params, fused=True), 2 * 30 * 4 + 2 * 4),
        (lambda params: AdamW(params, capturable=True), 2 * 30 * 4 + 2 * 4),
        (lambda params: SGD(params, momentum=0.9, fused=True), 30 * 4),
        (Layerwise, 30 * 4),
        (ASGD, 30 * 4 + 2 * 12),
        # Adafactor: per row and per column of the weights, per element of the bias.
        (Adafactor, (6 + 4 + 6) * 4 + 2 * 4),
    ],
)
def test_optimizers_that_look_at_values_or_want_a_gpu(make, state_byte):
    module = Three()
    found, plain = profiled(module, "first", make(module.parameters())), profiled(module, "first")

    assert found.optimizer_state_bit[0] == 8 * state_byte
    assert found.training_memory_byte(0, 100) >= plain.training_memory_byte(0, 100) + state_byte
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_fused_step_takes_nothing_for_a_moment():
    module = Three()
    fused, plain = (
        profiled(module, "first", SGD(module.parameters(), momentum=0.9, weight_decay=0.1, fused=fused))
        for fused in (True, False)
    )
    assert fused.training_memory_byte(0, 1) < plain.training_memory_byte(0, 1)


def test_an_optimizer_that_looks_at_values_is_refused_for_a_model_without():
    module = Three().to("meta")
    with pytest.raises(ValueError, match="Three holds no values, and a step of Layerwise looks at some"):
        profile_cuts(module, batch(), {}, Layerwise(module.parameters()))


class Caches(Three):
    """Makes a table in its first step and keeps it."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        tables = vars(self).setdefault("tables", {})
        if "shift" not in tables:
            tables["shift"] = torch.arange(4.0) / 10
        x, labels = batch
        return super().training_step((x + tables["shift"], labels), batch_idx)


def test_what_a_first_step_keeps_for_later_ones_does_not_matter():
    found = profile_cuts(Caches(), batch(), {})
    assert found.whole is not None
    assert found.whole.client_forward_flop[0].tolist() == [0, 48 + 60 + 30]


class KeepsLosses(Three):
    """Keeps the losses of its steps with their graphs, for the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss)
        return loss


def test_a_module_that_keeps_the_losses_of_its_steps():
    module = KeepsLosses()
    fresh = profiled(module, "first")
    module.training_step(batch(), 0)
    later = profiled(module, "first")

    assert len(module.losses) == 1
    assert (later.client_training_memory_line == fresh.client_training_memory_line).all()


def test_sparse_gradients_are_refused_by_their_layout():
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self.head(self.embedding(batch[0])), batch[1])

    module, data = Sparse(), (torch.tensor([7, 2, 5]), torch.arange(3))
    splits = {"embedding": search(module, data).split("embedding")}
    with pytest.raises(ValueError, match="layout=torch.sparse_coo, whose memory is not counted"):
        profile_cuts(module, data, splits)
