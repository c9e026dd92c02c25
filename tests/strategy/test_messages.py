"""What crosses in a fit: kinds, order, sizes, records, gradients."""

import pytest
import torch
from sfl_models import (
    MLP,
    RESNET,
    VGG,
    adamw,
    fit,
    same,
    sgd,
)
from torch import nn
from torch.nn.functional import cross_entropy
from training_cases import strategy

from lightning_sfl import MessageLog
from lightning_sfl.link.message import MessageKind


def test_the_messages_of_a_round_come_in_order_and_name_sender_and_receiver():
    log = MessageLog()
    fit(MLP.module(adamw), MLP.loader(6, 2), strategy(num_clients=1, message_log=log, aggregate_every=2), max_epochs=2)
    messages = list(log.messages())
    first_round = [(m.kind.value, m.sender, m.receiver, m.step) for m in messages if m.round == 0]
    up, down, fed_up, fed_down = (
        ("client/0", "server"),
        ("server", "client/0"),
        ("client/0", "fed_server"),
        ("fed_server", "client/0"),
    )
    assert first_round == [
        ("broadcast", *fed_down, 0),
        ("label", *up, 0),
        ("smashed", *up, 0),
        ("cut_gradient", *down, 0),
        ("label", *up, 1),
        ("smashed", *up, 1),
        ("cut_gradient", *down, 1),
        ("client_update", *fed_up, 1),
        ("optimizer_state", *fed_up, 1),
    ]
    assert [m.kind.value for m in messages if m.round == 1][:2] == ["broadcast", "optimizer_state"]
    assert [m.number for m in messages] == list(range(len(messages)))
    assert {m.cut for m in messages} == {"model.2"}


def test_the_meter_counts_what_the_shapes_say():
    """MLP, cut behind Tanh: 16 floats per sample up and down, one 8-byte label.

    20 samples in one pass of 4 clients with 5 samples each, batch 5, one step. The client's half is Linear(192, 16):
    3088 floats, broadcast to and sent by each of the 4.
    """
    used = strategy(num_clients=4, batch_size=5)
    fit(MLP.module(lambda p: torch.optim.SGD(p, lr=0.1)), MLP.loader(20, 5), used, max_epochs=1)
    traffic = {kind.value: found.payload_byte for (kind, _), found in used.link.meter.by_kind().items()}
    assert traffic == {
        "broadcast": 4 * 3088 * 4,
        "label": 20 * 8,
        "smashed": 20 * 16 * 4,
        "cut_gradient": 20 * 16 * 4,
        "client_update": 4 * 3088 * 4,
    }


def test_a_log_on_disk_is_the_log_in_memory(tmp_path):
    logs = [MessageLog(), MessageLog(tmp_path / "log")]
    for log in logs:
        fit(VGG.module(sgd), VGG.loader(9, 2, shuffle=True), strategy(message_log=log), max_epochs=1)
    memory, disk = list(logs[0].messages()), list(MessageLog.open(tmp_path / "log").messages())
    assert len(memory) == len(disk) > 10
    for one, other in zip(memory, disk, strict=True):
        assert one.to_bytes() == other.to_bytes()
        assert same(dict(one.tensors), dict(other.tensors))
    assert logs[0].truth() == MessageLog.open(tmp_path / "log").truth()


def test_the_truth_names_the_records_whose_smashed_data_were_sent():
    """Recomputing the smashed data of the named records from the broadcast weights gives the message."""
    log, module = MessageLog(), MLP.module(sgd)
    fit(module, MLP.loader(12, 2, shuffle=True), strategy(message_log=log), max_epochs=1)
    truth, data, checked = log.truth(), MLP.dataset(12), 0
    weights = {(m.client, m.round): m.tensors for m in log.messages(kinds=[MessageKind.BROADCAST])}
    for message in log.messages(kinds=[MessageKind.SMASHED]):
        origin = truth[message.number]
        assert origin.client == message.client
        images = torch.stack([data[index][0] for index in origin.indices]).flatten(1)
        client = weights[message.client, message.round]
        expected = torch.tanh(nn.functional.linear(images, client["model.1.weight"], client["model.1.bias"]))
        assert torch.equal(message.tensors["0"], expected)
        checked += 1
    assert checked == 6


def test_the_log_holds_the_smashed_data_as_they_crossed_not_as_the_server_wrote_over_them():
    """VGG cut at its first norm: the ReLU behind it works in place, on the server."""
    log = MessageLog()
    fit(VGG.module(sgd), VGG.loader(4, 2), strategy(cut="model.1", num_clients=2, message_log=log), max_epochs=1)
    smashed = [message.tensors["0"] for message in log.messages(kinds=[MessageKind.SMASHED])]
    assert len(smashed) == 2
    assert all((tensor < 0).any() for tensor in smashed)


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v1"])
def test_a_clients_cut_gradient_is_that_of_its_own_mean_loss(algorithm):
    """Whatever its weight in the server's loss: clients of 1, 2 and 5 samples."""
    log, module = MessageLog(), MLP.module(sgd)
    parts = [[0], [1, 2], [3, 4, 5, 6, 7]]
    fit(
        module,
        MLP.loader(8, 5),
        strategy(partition=parts, algorithm=algorithm, message_log=log),
        max_epochs=1,
        max_steps=1,
    )
    server, data = MLP.module(sgd).model[3:], MLP.dataset(8)
    received = {m.client: m.tensors["0"] for m in log.messages(kinds=[MessageKind.CUT_GRADIENT])}
    for message in log.messages(kinds=[MessageKind.SMASHED]):
        smashed = message.tensors["0"].clone().requires_grad_()
        cross_entropy(server(smashed), data.targets[parts[message.client]]).backward()
        torch.testing.assert_close(received[message.client], smashed.grad, rtol=1e-5, atol=1e-8)


def test_a_frozen_prefix_sends_no_cut_gradient_and_no_weights():
    module = RESNET.module(lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1))
    module.model[0].requires_grad_(False)
    used = strategy(cut="model.0", num_clients=2)
    before = module.model[0][0].weight.clone()
    fit(module, RESNET.loader(8, 4), used, max_epochs=2)
    kinds = {kind.value: found.payload_bit for (kind, _), found in used.link.meter.by_kind().items()}
    assert "cut_gradient" not in kinds
    assert kinds["client_update"] == kinds["broadcast"] == 2 * 2 * (2 * 6 * 32 + 64)  # the norm's running statistics
    assert torch.equal(module.model[0][0].weight, before)
