"""Who does what when in one round. Numbers of the parts stand in `world_cases`."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world_cases import HandChannel, HandServer, SlowingChannel, hand_profile, lines, who, whole, world

from lightning_sfl.world.cost.rules import RULES
from lightning_sfl.world.cost.timeline import Interval, Stage, timeline
from lightning_sfl.world.world import Ends

amount = st.integers(1, 9)


@st.composite
def rounds(draw):
    """A round of up to four clients, and when it begins."""
    algorithm = draw(st.sampled_from(sorted(RULES)))
    count = 1 if RULES[algorithm].hands_on else draw(st.integers(1, 4))
    clients = draw(st.permutations(range(4)))[:count]
    cuts = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    before = draw(st.none() | st.lists(st.integers(0, 2), min_size=count, max_size=count))
    turns = draw(st.booleans())
    turn = {"turn_flop": 7.0, "returned_bit": 64.0, "returned_gradient_bit": 32.0} if turns else {}
    asked = world(
        algorithm,
        profile=hand_profile(**{name: lines(*[(0, value)] * 3) for name, value in turn.items()}),
        channel=draw(st.sampled_from([HandChannel(), SlowingChannel()])),
        server=HandServer(
            works=draw(st.sampled_from(["serial", "parallel"])),
            inter_server_bit_per_s=draw(st.sampled_from([None, 10.0, 1e9])),
        ),
        aggregate_every=draw(st.integers(1, 3)),
    )
    given = who(clients, cuts, draw(st.lists(amount, min_size=count, max_size=count)))
    start_s = draw(st.sampled_from([0.0, 12.5]))
    ends = Ends(
        previous_cut=None if before is None else whole(*before), previous_deepest=draw(st.sampled_from([None, 2]))
    )
    return asked.round(given, ends, start_s=start_s), start_s


def by_party(intervals):
    parties = {}
    for interval in intervals:
        parties.setdefault(interval.party, []).append(interval)
    return parties


@settings(max_examples=60)
@given(rounds())
def test_every_party_is_shown_from_the_rounds_beginning_to_its_end_without_a_gap(drawn):
    cost, start_s = drawn
    parties = by_party(timeline(cost, start_s))
    assert list(parties) == [*(f"client/{client}" for client in cost.clients), "server"]
    for intervals in parties.values():
        assert intervals[0].start_s == start_s
        assert intervals[-1].end_s == pytest.approx(start_s + cost.total_s, rel=1e-12)
        for one, other in pairwise(intervals):
            assert one.start_s < one.end_s == other.start_s
        waits = [i.end_s - i.start_s for i in intervals if i.stage is Stage.WAIT]
        assert all(seconds > 1e-12 * cost.total_s for seconds in waits), "a wait that is rounding"


@settings(max_examples=60)
@given(rounds())
def test_every_party_is_as_long_at_work_as_its_stages_take(drawn):
    cost, start_s = drawn
    parties = by_party(timeline(cost, start_s))
    for place, client in enumerate(cost.clients):
        found = [i for i in parties[f"client/{client}"] if i.stage is not Stage.WAIT]
        assert sum(i.end_s - i.start_s for i in found) == pytest.approx(cost.client_s[place])
    found = sum(i.end_s - i.start_s for i in parties["server"] if i.stage in (Stage.SERVER, Stage.AGGREGATION))
    served_s = [
        (step.server_s + step.return_s).sum() if cost.rule.one_by_one else step.served_s + step.returned_s
        for step in cost.steps
    ]
    assert found == pytest.approx(sum(served_s) + cost.closing.aggregation_s)


@settings(max_examples=60)
@given(rounds())
def test_nobody_has_to_wait_when_everybody_else_waits(drawn):
    """At any time somebody does something."""
    cost, start_s = drawn
    busy = sorted((i.start_s, i.end_s) for i in timeline(cost, start_s) if i.stage is not Stage.WAIT)
    until_s = start_s
    for begins_s, ends_s in busy:
        assert begins_s <= until_s + 1e-6 * max(1.0, until_s)
        until_s = max(until_s, ends_s)
    assert until_s == pytest.approx(start_s + cost.total_s)


def test_a_round_in_parallel():
    """Client 0 at a, client 1 at b, one sample each: 6400 and 25600 bit down, 50 and 200 s, none for the server.
    Forward 0.1 and 0.2 s, up (256 + 80)/64 = 5.25 and 208/64 = 3.25 s, until 205.35 s; the server 0.28 + 0.19 s; down 2
    and 1 s, backward 0.1 and 0.35 s, until 207.92 s; up again 100 and 400 s, until 607.92 s; averaging
    2 · 800/1000 s."""
    found = by_party(timeline(world().round(who(batch_size=(1, 1)))))
    shown = {
        party: [(i.stage.value, round(i.start_s, 6), round(i.end_s, 6)) for i in intervals]
        for party, intervals in found.items()
    }
    assert shown == {
        "client/0": [
            ("broadcast", 0, 50),
            ("wait", 50, 200),
            ("forward", 200, 200.1),
            ("uplink", 200.1, 205.35),
            ("wait", 205.35, 205.82),
            ("downlink", 205.82, 207.82),
            ("backward", 207.82, 207.92),
            ("upload", 207.92, 307.92),
            ("wait", 307.92, 609.52),
        ],
        "client/1": [
            ("broadcast", 0, 200),
            ("forward", 200, 200.2),
            ("uplink", 200.2, 203.45),
            ("wait", 203.45, 205.82),
            ("downlink", 205.82, 206.82),
            ("backward", 206.82, 207.17),
            ("wait", 207.17, 207.92),
            ("upload", 207.92, 607.92),
            ("wait", 607.92, 609.52),
        ],
        "server": [
            ("wait", 0, 205.35),
            ("server", 205.35, 205.82),
            ("wait", 205.82, 607.92),
            ("aggregation", 607.92, 609.52),
        ],
    }


def test_without_a_cut_nobody_waits_before_the_upload_is_done():
    stages = by_party(timeline(world("fedavg", aggregate_every=2).round(who())))
    work = ["broadcast", "forward", "backward", "forward", "backward", "upload"]
    assert [i.stage for i in stages["client/0"]] == [*work, "wait"]
    assert [i.stage for i in stages["client/1"]] == [*work, "wait"]


def test_one_by_one_a_client_has_all_its_mini_batches_before_the_next():
    found = timeline(world("splitfed_v2", aggregate_every=2).round(who((2, 0))))
    forward = sorted((i.start_s, i.party) for i in found if i.stage is Stage.FORWARD)
    assert [party for _, party in forward] == ["client/2", "client/2", "client/0", "client/0"]


def test_an_interval_is_plain():
    (first, *_) = timeline(world().round(who()))
    assert first == Interval(party="client/0", stage=Stage.BROADCAST, start_s=0.0, end_s=first.end_s)
    assert type(first.end_s) is float
    assert np.isfinite(first.end_s)
