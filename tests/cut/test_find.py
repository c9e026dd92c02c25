"""Finding cuts: which are valid, what is said of them, and that looking leaves no trace."""

import random

import numpy as np
import pytest
import torch
from sfl_models import BERT, GPT2, KINDS, LLAMA, RESNET, VGG, HuggingFace, gpt2, sgd
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sfl import CutError, find_cuts
from lightning_sfl.cut.crossing import Crossing
from lightning_sfl.cut.find import default_cut, search


class Step(nn.Module):
    """A module whose step is given by a function of itself and the batch."""

    def __init__(self, step, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self, batch)


def names(module, batch, **options):
    return [cut.name for cut in find_cuts(module, batch, **options)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_cut_that_the_laws_use_is_found(kind):
    found = find_cuts(kind.module(sgd), kind.batch(), server_inputs=kind.server_inputs)
    known = {name for cut in found for name in (cut.name, *cut.aliases)}
    assert set(kind.cuts) <= known


def test_a_residual_network_is_cut_between_its_blocks_only():
    assert names(RESNET.module(sgd), RESNET.batch()) == [
        "model.0.0",
        "model.0.1",
        "model.0",
        "model.1",
        "model.2",
        "model.3.0",
        "model.3.1",
        "model.3",
        "model",
    ]


def test_shapes_bytes_and_parameters_of_a_cut():
    """Stem: 3·6·9 weights and 2·6 of the norm; output 6x8x8 floats. Block 1: 2·(6·6·9) + 2·2·6 more."""
    cuts = {cut.name: cut for cut in find_cuts(RESNET.module(sgd), RESNET.batch(3))}
    assert cuts["model.0"].smashed_shapes == ((6, 8, 8),)
    assert cuts["model.0"].smashed_byte_per_sample == 6 * 8 * 8 * 4
    assert cuts["model.0"].client_parameters == 3 * 6 * 9 + 12
    assert cuts["model.1"].client_parameters == 3 * 6 * 9 + 12 + 2 * 6 * 6 * 9 + 24
    assert cuts["model.1"].client_parameter_byte == 4 * cuts["model.1"].client_parameters


def test_modules_that_end_at_the_same_tensor_are_one_cut_named_by_the_outermost():
    cuts = {cut.name: cut.aliases for cut in find_cuts(RESNET.module(sgd), RESNET.batch())}
    assert cuts["model.1"] == ("model.1.relu",)
    assert cuts["model"] == ("model.4",)


@pytest.mark.parametrize("kind", [GPT2, LLAMA])
def test_a_language_model_gives_its_input_away_unless_that_is_allowed(kind):
    with pytest.raises(CutError, match=r"reads 'labels', an input of the model.*server_inputs=\('labels',\)"):
        find_cuts(kind.module(sgd), kind.batch())
    cuts = find_cuts(kind.module(sgd), kind.batch(), server_inputs=("labels",))
    assert all(cut.split.crossing["labels"] is Crossing.INPUT for cut in cuts)
    assert all("input_ids" in cut.split.private for cut in cuts)


def test_masks_cross_where_the_server_has_attention_and_labels_always():
    cuts = {cut.name: cut.split for cut in find_cuts(BERT.module(sgd), BERT.batch())}
    assert cuts["model.bert.encoder.layer.0"].crossing == {"attention_mask": Crossing.MASK, "labels": Crossing.LABEL}
    assert cuts["model.bert.embeddings"].crossing["attention_mask"] is Crossing.MASK
    assert cuts["model.bert"].crossing == {"labels": Crossing.LABEL}  # pooled: nothing behind it attends


def test_tied_weights_are_named_with_both_ends():
    module = HuggingFace(gpt2(tied=True), sgd)
    with pytest.raises(CutError, match=r"'model.transformer.wte.weight' = 'model.lm_head.weight'.*U-shape"):
        search(module, GPT2.batch(), server_inputs=("labels",)).cut("model.transformer.h.0")
    # With the cut behind the head, both ends are the client's.
    assert names(module, GPT2.batch(), server_inputs=("labels",)) == ["model.lm_head"]


def test_a_weight_penalty_in_the_loss_is_a_read_on_both_sides():
    def step(self, batch):
        penalty = sum(p.square().sum() for p in self.parameters())
        return self.b(torch.relu(self.a(batch))).mean() + 1e-3 * penalty

    module = Step(step, a=nn.Linear(4, 4), b=nn.Linear(4, 1))
    with pytest.raises(CutError, match="'a.weight'.*weight_decay"):
        find_cuts(module, torch.rand(3, 4))


def test_a_head_that_looks_at_the_input_again_needs_permission():
    def step(self, batch):
        hidden = self.a(batch["x"])
        return cross_entropy(self.b(torch.cat([hidden, batch["x"]], dim=1)), batch["y"])

    module = Step(step, a=nn.Linear(4, 4), b=nn.Linear(8, 2))
    batch = {"x": torch.rand(3, 4), "y": torch.tensor([0, 1, 0])}
    with pytest.raises(CutError, match="reads 'x', an input of the model.*Valid cuts are 'b'"):
        search(module, batch).cut("a")
    assert names(module, batch, server_inputs=("x",)) == ["a", "b"]


def test_what_was_computed_from_the_labels_before_the_cut_is_still_a_label():
    def step(self, batch):
        x, y = batch
        one_hot = nn.functional.one_hot(y, 2).float()
        return (self.b(torch.relu(self.a(x))) - one_hot).square().mean()

    module = Step(step, a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    (first, _) = find_cuts(module, (torch.rand(3, 4), torch.tensor([0, 1, 0])))
    assert first.split.crossing == {"1": Crossing.LABEL}
    assert first.split.private == ("0",)


def test_a_value_kept_from_before_the_cut_is_a_path_around_it_even_detached():
    def step(self, batch):
        hidden = self.a(batch)
        return self.c(self.b(hidden) + hidden.detach()).mean()

    module = Step(step, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 1))
    assert names(module, torch.rand(3, 4)) == ["a", "c"]


def test_a_module_that_passes_its_input_on_does_not_hide_a_skip_around_it():
    """The identity's output is the very tensor that the skip reads, so only the dataflow can tell them apart."""

    def step(self, batch):
        hidden = self.a(batch)
        return self.b(self.identity(hidden) + hidden).mean()

    module = Step(step, a=nn.Linear(4, 4), identity=nn.Identity(), b=nn.Linear(4, 1))
    assert names(module, torch.rand(3, 4)) == ["a", "b"]


def test_a_frozen_prefix_can_be_cut():
    module = RESNET.module(sgd)
    module.model[0].requires_grad_(False)
    module.model[1].requires_grad_(False)
    cuts = {cut.name: cut for cut in find_cuts(module, RESNET.batch())}
    assert "model.0" in cuts
    assert "model.1.body.0" not in cuts
    assert cuts["model.1"].client_parameters > cuts["model.0"].client_parameters


def test_a_module_visited_twice_is_no_cut_but_one_called_again_without_gradients_is():
    def step(self, batch):
        with torch.no_grad():
            target = self.a(batch)
        hidden = self.b(self.shared(self.a(batch)))
        return self.c(self.shared(hidden)).mean() - target.mean()

    parts = {"a": nn.Linear(4, 4), "shared": nn.ReLU(), "b": nn.Linear(4, 4), "c": nn.Linear(4, 1)}
    with pytest.raises(CutError, match="no valid cut"):  # the target reads the client's weights behind every cut
        find_cuts(Step(step, **parts), torch.rand(3, 4))

    def simple(self, batch):
        return self.c(self.shared(self.b(self.shared(self.a(batch))))).mean()

    assert names(Step(simple, **parts), torch.rand(3, 4)) == ["a", "b", "c"]


def test_several_tensors_cross_one_cut_and_only_those_that_are_read():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return {"left": self.left(x), "unread": x * 2, "right": self.right(x), "note": "text"}

    def step(self, batch):
        out = self.two(batch)
        return self.head(torch.cat([out["left"], out["right"]], dim=1)).mean()

    module = Step(step, two=Two(), head=nn.Linear(5, 1))
    (cut, _) = find_cuts(module, torch.rand(6, 4))
    assert cut.name == "two"
    assert cut.smashed_shapes == ((3,), (2,))


def test_looking_for_cuts_leaves_no_trace():
    module, batch = VGG.module(sgd), VGG.batch()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    find_cuts(module, batch)
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_default_is_the_least_smashed_data_of_the_first_half_and_the_deepest_of_equals():
    """Residual network: of the first four of nine cuts all have 6x8x8 values; the deepest of them is model.1.

    GPT-2: of the first three of seven all have 5x16; the deepest is block 0.
    """
    assert default_cut(find_cuts(RESNET.module(sgd), RESNET.batch())).name == "model.1"
    cuts = find_cuts(GPT2.module(sgd), GPT2.batch(), server_inputs=("labels",))
    assert default_cut(cuts).name == "model.transformer.h.0"


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ({"text": ["a", "b"]}, {}, "holds no tensor"),
        ((torch.rand(2, 4), torch.tensor([0, 1])), {"server_inputs": ("image",)}, r"\['image'\] are not in the batch"),
    ],
)
def test_a_batch_without_tensors_and_unknown_server_inputs_are_refused(batch, options, message):
    module = Step(lambda self, batch: self.b(self.a(batch[0])).mean(), a=nn.Linear(4, 4), b=nn.Linear(4, 1))
    with pytest.raises(ValueError, match=message):
        find_cuts(module, batch, **options)


def test_a_plain_module_needs_to_be_told_its_step():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="has no training_step"):
        find_cuts(module, torch.rand(2, 4))
    assert names(module, torch.rand(2, 4), step=lambda module, batch: module(batch).mean()) == ["0", "1", "2"]


def test_a_step_without_a_loss_is_refused():
    module = Step(lambda self, batch: "loss", a=nn.Linear(4, 4))
    with pytest.raises(ValueError, match="returned str, which holds no loss tensor"):
        find_cuts(module, torch.rand(2, 4))
