"""What crosses beside the smashed data: labels that give the input away, masks without padding, values only logged."""

import pytest
import torch
from sfl_models import BERT, GPT2, MLP, Classifier, HuggingFace, bert, fit, gpt2, mlp, sgd
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_sfl import CutError, MessageLog, SplitFederatedStrategy, find_cuts
from lightning_sfl.cut.crossing import Crossing
from lightning_sfl.link.message import MessageKind

# Labels that are the input shifted by one


class Predicts(Classifier):
    """The next token from each."""

    def training_step(self, batch, batch_idx):
        tokens, following = batch
        logits = self.model(tokens)[:, : following.shape[1]]
        return cross_entropy(logits.flatten(0, 1), following.flatten())


def predictor() -> Predicts:
    torch.manual_seed(0)
    return Predicts(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 20)), sgd)


def tokens():
    return torch.randint(0, 20, (8, 9), generator=torch.Generator().manual_seed(0))


def shifted(samples):
    both = torch.stack(list(samples))
    return both[:, :-1], both[:, 1:]


def shifted_and_shorter(samples):
    both = torch.stack(list(samples))
    return both, both[:, 1:]


def shifted_and_padded(samples):
    """As long as the input; the last place, which nothing follows, is left out of the loss."""
    both = torch.stack(list(samples))
    following = torch.full_like(both, -100)
    following[:, :-1] = both[:, 1:]
    return both, following


@pytest.mark.parametrize("collate", [shifted, shifted_and_shorter, shifted_and_padded])
def test_labels_that_are_the_next_tokens_give_the_input_away_unless_that_is_allowed(collate):
    batch = collate(tokens())
    message = r"reads '1', an input of the model that the cut is to keep private \(or labels equal to it\)"
    with pytest.raises(CutError, match=message):
        find_cuts(predictor(), batch)
    loader = DataLoader(tokens(), batch_size=2, collate_fn=collate)
    with pytest.raises(CutError, match=message + r".*server_inputs=\('1',\)"):
        fit(predictor(), loader, SplitFederatedStrategy(cut="model.1", num_clients=2), max_epochs=1)
    used = SplitFederatedStrategy(cut="model.1", num_clients=2, server_inputs=("1",))
    fit(predictor(), loader, used, max_epochs=1)
    assert next(iter(used.splits.values())).crossing == {"1": Crossing.INPUT}
    assert next(iter(used.splits.values())).private == ("0",)


def test_labels_in_the_inputs_place_that_are_something_else_are_labels():
    """The tokens backwards, and the tokens shifted by two, are of the same form and equal neither shift."""
    for other in (tokens()[:, :-1].flip(1), tokens().roll(2, 1)[:, :-1]):
        cuts = find_cuts(predictor(), (tokens()[:, :-1], other))
        assert all(cut.split.crossing == {"1": Crossing.LABEL} for cut in cuts)


# Masks


def without_padding(kind):
    """The kind's batch with every sequence as long as the first four tokens, and none masked."""
    batch = dict(kind.batch())
    batch["input_ids"] = torch.randint(1, 32, (4, 6), generator=torch.Generator().manual_seed(1))
    batch["attention_mask"] = torch.ones(4, 6, dtype=torch.long)
    if kind.causal:
        batch["labels"] = batch["input_ids"].clone()
    return batch


@pytest.mark.parametrize(
    ("kind", "model", "cut"),
    [(BERT, bert, "model.bert.encoder.layer.0"), (GPT2, gpt2, "model.transformer.h.0")],
    ids=["bert", "gpt2"],
)
def test_a_mask_that_masks_nothing_is_a_mask_all_the_same(kind, model, cut):
    """The model looks whether anything is masked and drops a mask of ones: it is read, and met by nothing."""
    torch.manual_seed(0)
    module = HuggingFace(model(), sgd)
    for batch in (without_padding(kind), kind.batch()):
        splits = {found.name: found.split for found in find_cuts(module, batch, server_inputs=kind.server_inputs)}
        assert splits[cut].crossing["attention_mask"] is Crossing.MASK


def test_the_first_batch_may_be_without_padding_and_the_masks_of_all_batches_cross():
    """In order: samples 0 to 3 have 6 tokens each, samples 4 to 7 have 3."""
    ids = torch.randint(1, 32, (8, 6), generator=torch.Generator().manual_seed(1))
    masks = torch.ones(8, 6, dtype=torch.long)
    masks[4:, 3:] = 0
    records = [
        {"input_ids": i, "attention_mask": m, "labels": n % 3} for n, (i, m) in enumerate(zip(ids, masks, strict=True))
    ]
    log = MessageLog()
    used = SplitFederatedStrategy(cut="model.bert.encoder.layer.0", num_clients=1, message_log=log)
    fit(BERT.module(sgd), DataLoader(records, batch_size=4), used, max_epochs=1)
    sent = [message.tensors["attention_mask"] for message in log.messages(kinds=[MessageKind.MASK])]
    assert [torch.equal(mask, masks[part]) for mask, part in zip(sent, (slice(4), slice(4, 8)), strict=True)] == [
        True
    ] * 2


# Values that are only logged


class LogsTheInput(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        self.log("mean", x.mean())
        self.log("spread", (x.flatten(1) - self.model[1].weight.mean()).std())
        return loss


def test_values_that_are_only_logged_do_not_make_a_cut_invalid_and_need_not_cross():
    """The same cuts as without them; what is logged is the mean over both clients' samples."""
    torch.manual_seed(0)
    plain, logs = Classifier(mlp(), sgd), LogsTheInput(mlp(), sgd)
    expected = [(cut.name, cut.split.crossing) for cut in find_cuts(plain, MLP.batch())]
    assert [(cut.name, cut.split.crossing) for cut in find_cuts(logs, MLP.batch())] == expected
    used = SplitFederatedStrategy(cut="model.2", num_clients=2)
    trainer = fit(logs, MLP.loader(8, 4), used, max_epochs=1)
    assert next(iter(used.splits.values())).crossing == {"1": Crossing.LABEL}
    assert next(iter(used.splits.values())).private == ("0",)
    assert float(trainer.callback_metrics["mean"]) == pytest.approx(float(MLP.dataset(8).images.mean()), rel=1e-5)


def test_a_buffer_written_behind_the_cut_is_work_of_the_server_and_what_it_reads_crosses():
    """A count of the labels, kept behind the cut, reaches no loss; the labels cross for the loss anyway, so here the
    loss does without them.
    """

    class Counts(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp(), sgd)
            self.register_buffer("seen", torch.zeros(4))

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = self.model(x).square().mean()
            self.seen += nn.functional.one_hot(y, 4).sum(0)
            return loss

    torch.manual_seed(0)
    cuts = find_cuts(Counts(), MLP.batch())
    assert cuts
    assert all(cut.split.crossing == {"1": Crossing.LABEL} for cut in cuts)
    assert all("seen" in cut.split.server_buffers for cut in cuts)


# A model with several inputs


class Adds(Classifier):
    """Token ids on one branch, measurements on the other."""

    def training_step(self, batch, batch_idx):
        ids, measured, labels = batch
        return cross_entropy(self.model["end"](self.model["ids"](ids) + self.model["measured"](measured)), labels)


def test_an_input_that_only_the_server_feeds_to_its_weights_is_no_mask():
    """It would have crossed raw, without a word, as a mask; a mask meets activations."""
    layers = {"ids": nn.Embedding(5, 4), "measured": nn.Linear(6, 4), "end": nn.Linear(4, 3)}
    module = Adds(nn.ModuleDict(layers), sgd)
    samples = [(torch.tensor(i % 5), torch.randn(6), torch.tensor(i % 3)) for i in range(8)]
    strategy = SplitFederatedStrategy(cut="model.ids", num_clients=2)
    with pytest.raises(CutError, match=r"reads '1', an input of the model.*allow it with server_inputs=\('1',\)"):
        fit(module, DataLoader(samples, batch_size=2), strategy, max_epochs=1)
    log = MessageLog()
    strategy = SplitFederatedStrategy(cut="model.ids", num_clients=2, server_inputs=("1",), message_log=log)
    fit(module, DataLoader(samples, batch_size=2), strategy, max_epochs=1)
    assert list(next(iter(log.messages(kinds=[MessageKind.INPUT]))).tensors) == ["1"]
