"""Numbers of the profile stand in `world_cases.hand_profile`."""

import numpy as np
import pytest
from world_cases import hand_profile, lines, numbers, whole

from lightning_sfl.algorithms import ALGORITHMS
from lightning_sfl.world.cost.load import round_load, step_load
from lightning_sfl.world.cost.rules import RULES

SPLIT = ["splitfed_shared", "splitfed_v1", "splitfed_v2", "split_learning"]


def step(algorithm, profile=None, cut=(0, 1), batch_size=(2, 3), **given):
    return step_load(
        profile or hand_profile(),
        cut=whole(*cut),
        batch_size=whole(*batch_size),
        clients=whole(7, 4),
        algorithm=algorithm,
        **given,
    )


def ends(algorithm, cut=(0, 1), **given):
    return round_load(hand_profile(), cut=whole(*cut), clients=whole(7, 4), algorithm=algorithm, **given)


@pytest.mark.parametrize("algorithm", SPLIT)
def test_a_step_asks_each_half_of_its_own(algorithm):
    """Client 7 at a with 2 samples: forward 2·10, backward 2·10, server 2·(90 + 190) = 560; up 2·256 of smashed data
    and 16 + 2·64 of labels = 656; down 512. Client 4 at b with 3: 120, 210, 3·190 = 570; 384 + 16 + 192 = 592; 384."""
    load = step(algorithm)
    assert load.clients.tolist() == [7, 4]
    assert load.client_forward_flop.tolist() == [20, 120]
    assert load.client_backward_flop.tolist() == [20, 210]
    assert load.server_flop.tolist() == [560, 570]
    assert load.uplink_bit.tolist() == [656, 592]
    assert load.downlink_bit.tolist() == [512, 384]


def test_without_a_cut_the_client_computes_everything_and_nothing_crosses():
    """Forward 100 and backward 200 per sample of the whole model, at whatever cut."""
    load = step("fedavg")
    assert load.client_forward_flop.tolist() == [200, 300]
    assert load.client_backward_flop.tolist() == [400, 600]
    for nothing in (load.server_flop, load.uplink_bit, load.downlink_bit):
        assert nothing.tolist() == [0, 0]


def test_the_profile_of_the_uncut_model_is_its_own():
    """One client of the whole model: 1000 parameters of 32 bit and as many of state."""
    uncut = hand_profile().whole
    given = {"cut": whole(0), "clients": whole(7), "algorithm": "fedavg"}
    assert step_load(uncut, batch_size=whole(2), **given).client_forward_flop.tolist() == [200]
    assert round_load(uncut, **given).update_bit.tolist() == [64000]
    with pytest.raises(ValueError, match=r"whole=None\) with 3 cuts"):
        round_load(hand_profile(whole=None), **given)


def test_a_zeroth_order_client_probes_forward_and_sends_scalars():
    """P = 5: 5 forwards of 20 and 120 in place of a backward; 5·32 = 160 bits more up, 5·32 + 5·64 = 480 more down.

    The client that cuts further behind is told 5·32 bits more, of the layers behind the other's cut.
    """
    load = step("ho_sfl", probes=5)
    assert load.client_forward_flop.tolist() == [20, 120]
    assert load.client_backward_flop.tolist() == [100, 600]
    assert load.server_flop.tolist() == [560, 570]
    assert load.uplink_bit.tolist() == [656 + 160, 592 + 160]
    assert load.downlink_bit.tolist() == [512 + 480, 384 + 480 + 160]


def test_what_crosses_for_every_move_is_computed_and_sent_as_often():
    """P = 2 are 4 moves: HOSL has 5 forward passes on both sides, and a backward pass of the server; ZO-SFL 4 and none.

    Forward passes of 20 and 120, the server's of 180 and 180 with backward of 380 and 390; smashed data of 512 and 384
    bits with labels of 144 and 208; seeds of 2·64 and means of 2·32 bits, twice for the cut behind the other.
    """
    plain = step("splitfed_shared")
    smashed, beside = [512, 384], [144, 208]
    server = hand_profile()
    for name, passes, backward in (("hosl", 5, 1), ("zo_sfl", 4, 0)):
        load = step(name, probes=2)
        assert load.client_forward_flop.tolist() == [passes * 20, passes * 120]
        assert load.client_backward_flop.tolist() == [0, 0]
        assert load.uplink_bit.tolist() == [passes * s + b for s, b in zip(smashed, beside, strict=True)]
        assert load.downlink_bit.tolist() == [128 + 64, 128 + 2 * 64]
        forward, back = _server(server, plain)
        assert load.server_flop.tolist() == [passes * f + backward * b for f, b in zip(forward, back, strict=True)]


def _server(profile, plain):
    """The server's forward and backward FLOPs of the two clients."""
    lines_of = (profile.server_forward_flop[:2], profile.server_backward_flop[:2])
    parts = [part[:, 0] + part[:, 1] * numbers(2, 3) for part in lines_of]
    assert (parts[0] + parts[1]).tolist() == plain.server_flop.tolist()
    return [part.tolist() for part in parts]


def test_the_head_of_a_client_brings_no_gradient_down():
    """HERON-SFL with P = 5: probes and scalars as in HO-SFL, and nothing down but seeds and means."""
    ours, theirs = step("heron_sfl", probes=5), step("ho_sfl", probes=5)
    assert ours.client_backward_flop.tolist() == theirs.client_backward_flop.tolist()
    assert ours.uplink_bit.tolist() == theirs.uplink_bit.tolist()
    assert ours.downlink_bit.tolist() == [480, 480 + 160]


def test_missed_pairs_are_broadcast():
    """P = 5: 5·(64 + 32) = 480 bits a step for the nearer cut, 5·(64 + 2·32) = 640 for the other; 3 and 2 steps."""
    load = ends("ho_sfl", missed_steps=whole(3, 2), probes=5)
    assert load.broadcast_bit.tolist() == [3 * 480, 2 * 640]
    assert ends("ho_sfl", probes=5).broadcast_bit.tolist() == [0, 0]


def test_a_zeroth_order_client_that_trains_nothing_probes_nothing():
    """At a nothing is trained, so no gradient crosses there; client 4 at b is as before."""
    frozen = hand_profile(cut_gradient_bit=lines((0, 0), (0, 128), (0, 64)))
    load = step("ho_sfl", frozen, probes=5)
    assert load.client_backward_flop.tolist() == [0, 600]
    assert load.uplink_bit.tolist() == [656, 592 + 160]
    assert load.downlink_bit.tolist() == [0, 384 + 480 + 160]


def test_a_quantiser_changes_the_bits_of_smashed_data_and_gradients_alone():
    """8 elements · 2 samples · 4 bit = 64, 64 for the range, and 144 of labels; 4 · 3 · 16 = 192, 64, and 208."""
    load = step("splitfed_shared", bits=numbers(4, 16))
    assert load.uplink_bit.tolist() == [64 + 64 + 144, 192 + 64 + 208]
    assert load.downlink_bit.tolist() == [64 + 64, 192 + 64]


def test_quantised_bits_are_whole_bytes_per_tensor_and_32_are_as_computed():
    """Two tensors of 3 + 5 and 5 elements per sample, 1 sample: 3 bits are 24 and 15, in bytes 24 and 16; 64 each."""
    elements = np.tile(np.array([[3.0, 5.0], [0.0, 5.0]]), (3, 1, 1))
    profile = hand_profile(smashed_element=elements, smashed_bit=lines(*[(96, 320)] * 3))
    load = step("splitfed_shared", profile, batch_size=(1, 1), bits=numbers(3, 32))
    assert load.uplink_bit.tolist() == [24 + 16 + 128 + 80, 96 + 320 + 80]


def test_ranges_of_double_precision_take_twice_the_bits():
    """16 elements of 64 bits: 8 bits each and 128."""
    load = step("splitfed_shared", hand_profile(smashed_bit=lines(*[(0, 512)] * 3)), cut=(0, 0), bits=numbers(8, 8))
    assert load.uplink_bit[0] == 8 * 16 + 128 + 144


def test_in_a_u_shape_what_is_returned_is_quantised_too():
    """2 elements · 2 samples · 5 bits = 20, which are 3 bytes, and 64; its gradient the same."""
    elements = np.tile(np.array([[0.0, 2.0]]), (3, 1, 1))
    given = {f"{name}_element": elements for name in ("returned", "returned_gradient")}
    given |= {f"{name}_bit": lines(*[(0, 64)] * 3) for name in ("returned", "returned_gradient")}
    load = step("splitfed_shared", hand_profile(**given), bits=numbers(5, 32))
    assert load.turn_down_bit.tolist() == load.turn_up_bit.tolist() == [24 + 64, 192]


def test_a_codec_makes_no_gradient_cross_where_nothing_before_the_cut_is_trained():
    elements = hand_profile().smashed_element * np.array([0, 1, 1])[:, None, None]
    frozen = hand_profile(cut_gradient_bit=lines((0, 0), (0, 128), (0, 64)), cut_gradient_element=elements)
    assert step("splitfed_shared", frozen, bits=numbers(4, 16)).downlink_bit.tolist() == [0, 192 + 64]


@pytest.mark.parametrize("probes", [None, 0, -1])
def test_a_zeroth_order_client_needs_probes(probes):
    with pytest.raises(ValueError, match=rf"probes={probes}.*ho_sfl needs.*at least 1"):
        step("ho_sfl", probes=probes)


def test_others_have_no_probes():
    with pytest.raises(ValueError, match=r"probes=2.*splitfed_v1 has no probes"):
        step("splitfed_v1", probes=2)


@pytest.mark.parametrize("make", [step, ends])
def test_an_unknown_algorithm_is_refused_by_name(make):
    with pytest.raises(ValueError, match=r"algorithm='splitfed'.*splitfed_shared"):
        make("splitfed")


def test_the_rules_are_those_of_the_table():
    assert set(RULES) == set(ALGORITHMS)
    assert [name for name, rule in RULES.items() if rule.one_by_one] == ["splitfed_v2", "split_learning"]


# Ends of a round


@pytest.mark.parametrize("algorithm", ["splitfed_shared", "splitfed_v2"])
def test_weights_and_optimizer_state_go_down_and_up(algorithm):
    """At a 3200 bit of weights and as many of state, at b 12800 each. The deepest cut is b: client 7 has the other
    25600 − 6400 = 19200 bit of its own on the server. Averaging: 2 FLOP for each of b's 400 parameters."""
    load = ends(algorithm)
    assert load.update_bit.tolist() == [6400, 25600]
    assert load.broadcast_bit.tolist() == [6400, 25600]
    assert load.inter_server_bit.tolist() == [19200, 0]
    assert load.aggregation_flop.tolist() == [800, 800]
    assert load.resplit_up_bit.tolist() == load.resplit_down_bit.tolist() == [0, 0]
    assert load.handover_bit == 0


def test_optimizer_state_that_is_not_averaged_stays():
    """Half of everything: 3200 and 12800; own layers on the server 9600."""
    load = ends("splitfed_shared", optimizer_state=False)
    assert load.update_bit.tolist() == load.broadcast_bit.tolist() == [3200, 12800]
    assert load.inter_server_bit.tolist() == [9600, 0]
    assert load.aggregation_flop.tolist() == [800, 800]


@pytest.mark.parametrize(("algorithm", "bit"), [("splitfed_shared", [3200, 12800]), ("fedavg", [32000, 32000])])
def test_in_the_first_round_there_is_no_state_to_broadcast(algorithm, bit):
    assert ends(algorithm, first=True).broadcast_bit.tolist() == bit
    assert ends(algorithm, first=True).update_bit.tolist() == ends(algorithm).update_bit.tolist()


def test_the_deepest_cut_may_be_that_of_somebody_who_does_not_take_part():
    """c with its state is 57600 bit; 57600 − 6400 and 57600 − 25600 are computed on the server."""
    assert ends("splitfed_shared", deepest=2).inter_server_bit.tolist() == [51200, 32000]


def test_a_cut_behind_the_deepest_is_refused():
    with pytest.raises(ValueError, match=r"deepest=0.*a client cuts at 1"):
        ends("splitfed_shared", deepest=0)


def test_a_server_replica_is_all_that_the_client_does_not_hold():
    """The whole model with its state is 64000 bit; averaging 2 · 1000 parameters."""
    load = ends("splitfed_v1")
    assert load.update_bit.tolist() == [6400, 25600]
    assert load.inter_server_bit.tolist() == [57600, 38400]
    assert load.aggregation_flop.tolist() == [2000, 2000]


def test_without_a_cut_the_update_is_the_whole_model():
    load = ends("fedavg", previous_cut=whole(1, 1), previous_deepest=2)
    assert load.update_bit.tolist() == load.broadcast_bit.tolist() == [64000, 64000]
    assert load.aggregation_flop.tolist() == [2000, 2000]
    assert load.inter_server_bit.tolist() == load.resplit_up_bit.tolist() == load.resplit_down_bit.tolist() == [0, 0]
    assert load.handover_bit == 0


def test_weights_that_are_handed_on_are_sent_and_not_averaged():
    load = ends("split_learning")
    assert load.update_bit.tolist() == load.broadcast_bit.tolist() == [6400, 25600]
    assert load.aggregation_flop.tolist() == [0, 0]


def test_zeroth_order_clients_send_no_weights():
    load = ends("ho_sfl")
    for nothing in (load.update_bit, load.broadcast_bit, load.inter_server_bit, load.aggregation_flop):
        assert nothing.tolist() == [0, 0]


def test_layers_that_move_are_sent_to_whoever_computes_them():
    """From b to a: client 7 gives up 25600 − 6400 bit; from a to b: client 4 is sent as many. What was broadcast before
    is what they held then. Down to client 4 together: 6400 + 19200, the 25600 of a broadcast at its new cut."""
    load = ends("splitfed_shared", previous_cut=whole(1, 0))
    assert load.resplit_up_bit.tolist() == [19200, 0]
    assert load.resplit_down_bit.tolist() == [0, 19200]
    assert load.broadcast_bit.tolist() == [25600, 6400]
    assert load.update_bit.tolist() == [6400, 25600]


@pytest.mark.parametrize(
    ("algorithm", "bit"), [("splitfed_shared", 32000), ("splitfed_v2", 32000), ("splitfed_v1", 0), ("ho_sfl", 0)]
)
def test_the_servers_exchange_layers_that_become_common_or_cease_to_be(algorithm, bit):
    """From c, 57600 bit with state, to b, 25600. Under V1 no layer is common before or after."""
    assert ends(algorithm, previous_deepest=2).handover_bit == bit
    assert ends(algorithm, cut=(0, 2), previous_deepest=1).handover_bit == bit


def test_entries_of_a_load_can_be_taken_out():
    load = step("splitfed_shared").of(np.array([1]))
    assert load.clients.tolist() == [4]
    assert load.uplink_bit.tolist() == [592]
