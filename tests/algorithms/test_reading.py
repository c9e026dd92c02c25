"""Reading the global model, in mid-round and between rounds."""

import pytest
import torch
from federation_cases import (
    LOWER,
    REPLICAS,
    SHARED,
    UPPER,
    assert_identical,
    batch_of,
    local_step,
    make,
    state_of,
    train,
    weights_of,
)

# Reading the global model


def mid_round(placement=REPLICAS):
    """A second round under way, two of its three participants present with 4 and 2 samples."""
    module, optimizer, federation = make(placement)
    federation.open(0, [0, 1], 0)
    for client in (0, 1):
        local_step(module, federation, client, batch_of(client, 0))
    federation.close(0)
    federation.open(1, [0, 1, 2], 1)
    local_step(module, federation, 0, batch_of(0, 1, rows=4))
    local_step(module, federation, 2, batch_of(2, 1, rows=2))
    return module, optimizer, federation


def test_reading_in_mid_round_shows_the_mean_of_those_present():
    module, optimizer, federation = mid_round()
    first, third = (federation.participants[client] for client in (0, 2))
    expected = {
        name: first.shard.tensors()[name] * (4 / 6) + third.shard.tensors()[name] * (2 / 6) for name in LOWER.parameters
    }
    expected |= {
        name: first.replica.tensors()[name] * (4 / 6) + third.replica.tensors()[name] * (2 / 6)
        for name in UPPER.parameters
    }
    federation.read()
    for name, tensor in expected.items():
        torch.testing.assert_close(module.get_parameter(name).detach(), tensor, rtol=1e-12, atol=1e-12)
    momentum = [
        each.shard.optimizer_state()["lower.weight"]["momentum_buffer"] * weight
        for each, weight in ((first, 4 / 6), (third, 2 / 6))
    ]
    shown = optimizer.state[module.lower.weight]["momentum_buffer"]
    torch.testing.assert_close(shown, sum(momentum), rtol=1e-12, atol=1e-12)
    federation.resume()


@pytest.mark.parametrize("first_round", [False, True])
def test_reading_leaves_no_trace(first_round):
    if first_round:  # the user's optimizer has no state yet, and must have none afterwards
        module, optimizer, federation = make()
        federation.open(0, [0, 1], 0)
        local_step(module, federation, 0, batch_of(0, 0))
    else:
        module, optimizer, federation = mid_round()
    weights, state = weights_of(module), state_of(module, optimizer)
    pointers = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    sent = federation._link.meter.total()
    held = {
        client: {name: tensor.clone() for party in each.parties for name, tensor in party.tensors().items()}
        for client, each in federation.participants.items()
    }
    federation.read()
    assert not torch.equal(module.lower.weight, weights["lower.weight"])
    federation.read()
    with torch.no_grad():  # whatever is done to what is shown
        for tensor in module.state_dict().values():
            tensor.fill_(7)
    federation.resume()
    assert_identical(weights_of(module), weights)
    assert_identical(state_of(module, optimizer), state)
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == pointers
    assert federation._link.meter.total() == sent
    for client, each in federation.participants.items():
        assert_identical({name: t for party in each.parties for name, t in party.tensors().items()}, held[client])
    federation.resume()
    assert_identical(weights_of(module), weights)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("placement", [REPLICAS, SHARED])
def test_training_goes_on_after_reading_as_if_nothing_had_been_read(inference, placement):
    """Evaluation loops run in inference mode, whose tensors autograd refuses to train."""

    def run(read):
        module, optimizer, federation = mid_round(placement)
        for step in (2, 3):
            if read:
                with torch.inference_mode(inference), torch.no_grad():
                    federation.read()
                    module.eval()
                    module.upper(module.norm(module.lower(batch_of(9, step))))
                    module.train()
                federation.resume()
            for client in (0, 1, 2):
                local_step(module, federation, client, batch_of(client, step))
        federation.close(3)
        federation.open(2, [1], 4)
        local_step(module, federation, 1, batch_of(1, 4))
        federation.close(4)
        assert not any(tensor.is_inference() for tensor in module.state_dict().values())
        return weights_of(module), state_of(module, optimizer)

    (weights, state), (expected, expected_state) = run(read=True), run(read=False)
    assert_identical(weights, expected)
    assert_identical(state, expected_state)


def test_what_was_read_in_inference_mode_can_be_trained_on():
    """As when a fit ends within a round: the module keeps the shown weights and state, and is the user's again."""
    module, optimizer, federation = mid_round()
    with torch.inference_mode():
        federation.read()
    expected, own, other = mid_round()
    other.read()
    for step in range(2):
        train(module, optimizer, batch_of(0, step))
        train(expected, own, batch_of(0, step))
    assert_identical(weights_of(module), weights_of(expected))
    assert_identical(state_of(module, optimizer), state_of(expected, own))
    held = [*module.state_dict().values(), *(state["momentum_buffer"] for state in optimizer.state.values())]
    assert not any(tensor.is_inference() for tensor in held)


def test_a_buffer_that_evaluation_assigns_while_the_global_model_is_read_is_not_fed_back():
    """The forward's `self.calls = self.calls + 1` puts a new tensor, made in inference mode, in the buffer's place."""
    module, _, federation = mid_round()
    weights = weights_of(module)
    with torch.inference_mode():
        federation.read()
        module.eval()
        module(batch_of(9, 0))
        module.train()
    federation.resume()
    assert_identical(weights_of(module), weights)
    local_step(module, federation, 0, batch_of(0, 2))
    federation.close(2)


def test_a_round_can_end_after_evaluation_assigned_a_buffer_between_rounds():
    """Plain training goes on from such a tensor, made in inference mode; so does a round."""
    module, _, federation = make()
    with torch.inference_mode():
        federation.read()
        module.eval()
        module(batch_of(9, 0))
        module.train()
    federation.resume()
    assert module.calls.tolist() == [1.0, 1.0]
    federation.open(0, [0], 0)
    local_step(module, federation, 0, batch_of(0, 0))
    federation.close(0)
    assert module.calls.tolist() == [2.0, 2.0]


def test_reading_between_rounds_shows_the_module_as_it_is():
    module, _, federation = make()
    weights = weights_of(module)
    federation.read()
    assert_identical(weights_of(module), weights)
    federation.resume()
    federation.open(0, [0], 0)
    federation.read()  # nobody has stepped yet
    assert_identical(weights_of(module), weights)
    federation.resume()


def test_global_weights_are_copies_of_what_reading_shows():
    module, _, federation = mid_round()
    before = weights_of(module)
    found = federation.global_weights()
    assert_identical(weights_of(module), before)
    federation.read()
    assert_identical(found, weights_of(module))
    again = federation.global_weights()
    assert_identical(again, found)
    for tensor in again.values():
        tensor.zero_()
    assert_identical(weights_of(module), found)
    federation.resume()
    federation.close(1)
    assert_identical(federation.global_weights(), weights_of(module))
    for name, tensor in found.items():
        torch.testing.assert_close(weights_of(module)[name], tensor)
