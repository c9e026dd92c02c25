"""Fleets: who computes how fast, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sfl.world.devices.fleet import BackgroundLoad, Device, Fleet, FleetRanges
from lightning_sfl.world.devices.server import Server

RANGES = FleetRanges(
    clock_hz=(1e9, 2e9),
    lowest_clock_hz=(1e8, 1e9),
    flop_per_cycle=(4.0, 4.0),
    efficiency=(0.3, 0.6),
    watt_per_cubic_hz=(1e-28, 1e-26),
    transmit_power_watt=(0.1, 0.2),
    memory_byte=(1e9, 8e9),
)
FIELDS = [field.name for field in dataclasses.fields(Device)]


def clients(*indices):
    return np.array(indices, dtype=np.int64)


def test_speed_and_power_by_hand():
    """Client 1: 2 GHz · 4 FLOP/cycle · ½ = 4 GFLOP/s, G·f³ = 1e-28 · 8e27 = 0.8 W.

    Client 0: 1 GHz · 8 · 1 = 8 GFLOP/s and 1e-27 · 1e27 = 1 W; clocked down to ½ GHz 4 GFLOP/s and 1/8 W.
    """
    fleet = Fleet(
        clock_hz=[1e9, 2e9],
        lowest_clock_hz=[1e8, math.nan],
        flop_per_cycle=[8, 4],
        efficiency=[1, 0.5],
        watt_per_cubic_hz=[1e-27, 1e-28],
    )
    assert fleet.flop_per_s(clients(1, 0)) == pytest.approx([4e9, 8e9])
    assert fleet.compute_watt(clients(1, 0)) == pytest.approx([0.8, 1.0])
    assert fleet.flop_per_s(clients(0), np.array([5e8])) == pytest.approx([4e9])
    assert fleet.compute_watt(clients(0), np.array([5e8])) == pytest.approx([0.125])
    assert fleet.lowest_clock_hz.tolist() == [1e8, 2e9]  # one that is not given cannot be lowered
    assert np.isnan(fleet.transmit_power_watt).all()
    assert np.isinf(fleet.memory_byte).all()


def test_the_server_by_hand():
    """2 GHz · 1e4 FLOP/cycle · ½ = 10 TFLOP/s; 2e-26 · 8e27 = 160 W."""
    server = Server(clock_hz=2e9, flop_per_cycle=1e4, efficiency=0.5, watt_per_cubic_hz=2e-26)
    assert server.flop_per_s() == pytest.approx(1e13)
    assert server.compute_watt() == pytest.approx(160)
    assert math.isnan(Server(clock_hz=2e9, flop_per_cycle=1e4).compute_watt())


@given(factor=st.floats(0.1, 1.0))
def test_power_grows_with_the_cube_of_the_clock_and_speed_with_the_clock(factor):
    fleet = Fleet.drawn(5, 0, dataclasses.replace(RANGES, lowest_clock_hz=(1e7, 1e7)))
    everybody = np.arange(5)
    clock = fleet.clock_hz * factor
    assert fleet.compute_watt(everybody, clock) == pytest.approx(fleet.compute_watt(everybody) * factor**3)
    assert fleet.flop_per_s(everybody, clock) == pytest.approx(fleet.flop_per_s(everybody) * factor)


def test_a_clock_outside_of_the_devices_range_is_refused_by_client():
    fleet = Fleet(clock_hz=[1e9, 2e9, 2e9], lowest_clock_hz=1e8, flop_per_cycle=1)
    with pytest.raises(ValueError, match=r"clock_hz=3e\+09 of client 2 is not accepted: .* 1e\+08 to 2e\+09 hertz"):
        fleet.flop_per_s(clients(0, 2), np.array([1e9, 3e9]))
    with pytest.raises(ValueError, match="clock_hz=1e.07 of client 0"):
        fleet.compute_watt(clients(0, 2), np.array([1e7, 1e9]))


# Draws


@given(few=st.integers(1, 20), more=st.integers(20, 40), seed=st.integers(0, 2**32))
def test_a_clients_device_does_not_depend_on_how_many_there_are(few, more, seed):
    small, large = (Fleet.drawn(count, seed, RANGES) for count in (few, more))
    for field in FIELDS:
        assert getattr(small, field).tolist() == getattr(large, field)[:few].tolist()


@given(seed=st.integers(0, 2**32))
def test_a_property_depends_on_its_own_range_alone(seed):
    fleet = Fleet.drawn(8, seed, RANGES)
    changed = Fleet.drawn(8, seed, dataclasses.replace(RANGES, clock_hz=(1e9, 9e9)))
    assert fleet.clock_hz.tolist() != changed.clock_hz.tolist()
    for field in set(FIELDS) - {"clock_hz"}:
        assert getattr(fleet, field).tolist() == getattr(changed, field).tolist()


def test_devices_are_drawn_uniformly_from_their_ranges():
    """Of 4,000 draws the mean's standard error is (high - low)/√12/√4000 = 0.0046 of the range."""
    fleet = Fleet.drawn(4000, 1, RANGES)
    for field in FIELDS:
        low, high = getattr(RANGES, field)
        values = getattr(fleet, field)
        assert low <= values.min() <= values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low) + 1e-30)
    assert abs(np.corrcoef(fleet.clock_hz, fleet.memory_byte)[0, 1]) < 0.06  # properties are independent


def test_the_same_seed_gives_the_same_fleet_on_every_machine():
    """Recorded once, seed 7."""
    fleet = Fleet.drawn(2, 7, RANGES)
    assert {field: [x.hex() for x in getattr(fleet, field)] for field in ("clock_hz", "memory_byte")} == {
        "clock_hz": ["0x1.3d1c477090bdfp+30", "0x1.321518838a22ep+30"],
        "memory_byte": ["0x1.86df2e36a8a1cp+32", "0x1.5e26a2744c034p+31"],
    }
    assert Fleet.drawn(2, 8, RANGES).clock_hz.tolist() != fleet.clock_hz.tolist()


# Speed


def test_background_load_stays_for_its_rounds_and_is_the_clients_own():
    load = BackgroundLoad(lowest=0.2, highest=0.8, every_rounds=3, seed=5)
    everybody = np.arange(50)
    drawn = [load.factor(everybody, round) for round in range(6)]
    assert all(0.2 <= factors.min() <= factors.max() <= 0.8 for factors in drawn)
    assert drawn[0].tolist() == drawn[1].tolist() == drawn[2].tolist() != drawn[3].tolist() == drawn[5].tolist()
    assert load.factor(clients(7, 3), 4).tolist() == drawn[4][[7, 3]].tolist()
    assert load.factor(clients(), 4).tolist() == []
    assert np.concatenate(drawn).mean() == pytest.approx(0.5, abs=0.06)


def test_a_fleet_slows_down_under_load():
    load = BackgroundLoad(lowest=0.5, seed=1)
    fleet = Fleet.drawn(4, 0, RANGES, speed=load)
    steady = Fleet.drawn(4, 0, RANGES)
    some = clients(2, 0)
    assert fleet.flop_per_s(some, round=6) == pytest.approx(steady.flop_per_s(some, round=6) * load.factor(some, 6))
    assert fleet.compute_watt(some).tolist() == steady.compute_watt(some).tolist()
    assert steady.flop_per_s(some, round=6).tolist() == steady.flop_per_s(some).tolist()


@pytest.mark.parametrize("ends", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_a_load_outside_of_its_range_is_refused(ends):
    with pytest.raises(ValueError, match=r"BackgroundLoad\(lowest=.*0 < lowest <= highest <= 1"):
        BackgroundLoad(lowest=ends[0], highest=ends[1])
    with pytest.raises(ValueError, match="every_rounds=0"):
        BackgroundLoad(lowest=0.5, every_rounds=0)


# Bad input


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("clock_hz", 0.0, r"clock_hz=...\) of client 1 is 0; it must be above 100000 and at most 1e\+10 hertz"),
        ("clock_hz", 1.2, r"clock_hz=...\) of client 1 is 1.2; it must be above 100000 and at most 1e\+10 hertz"),
        ("clock_hz", 2e10, r"clock_hz=...\) of client 1 is 2e\+10"),
        ("clock_hz", math.nan, r"clock_hz=...\) of client 1 is nan"),
        (
            "lowest_clock_hz",
            3e9,
            r"lowest_clock_hz=.* client 1 is 3e\+09; it must be at most its clock_hz=1e\+09",
        ),
        ("flop_per_cycle", -1.0, r"flop_per_cycle=...\) of client 1 is -1; it must be above 0"),
        ("efficiency", 1.2, r"efficiency=...\) of client 1 is 1.2; it must be above 0 and at most 1"),
        ("watt_per_cubic_hz", 0.0, r"watt_per_cubic_hz=...\) of client 1 is 0; it must be above 0"),
        ("transmit_power_watt", 23.0, r"client 1 is 23; .* at most 10 watts. It looks like dBm: 23 dBm are 0.1995 W"),
        ("transmit_power_watt", -3.0, r"client 1 is -3; .* -3 dBm are 0.0005012 W"),
        ("memory_byte", 0.0, r"memory_byte=...\) of client 1 is 0; it must be above 0 bytes"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name_client_value_and_range(field, value, message):
    fields = {"clock_hz": [1e9] * 3, "flop_per_cycle": [1.0] * 3}
    fields[field] = list(fields.get(field, [fine(field)] * 3))
    fields[field][1] = value
    with pytest.raises(ValueError, match=message):
        Fleet(**fields)


def fine(field):
    return {"lowest_clock_hz": 1e8, "watt_per_cubic_hz": 1e-28, "transmit_power_watt": 0.1}.get(field, 1.0)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"Fleet\(efficiency=...\) has the shape \(3,\) for 2 clients"):
        Fleet(clock_hz=[1e9, 1e9], flop_per_cycle=1.0, efficiency=[1, 1, 1])
    with pytest.raises(ValueError, match=r"Fleet\(clock_hz=...\) has the shape \(\)"):
        Fleet(clock_hz=1e9, flop_per_cycle=1.0)
    with pytest.raises(ValueError, match=r"Fleet\(flop_per_cycle='many'\) is not accepted"):
        Fleet(clock_hz=[1e9], flop_per_cycle="many")
    with pytest.raises(ValueError, match="num_clients=0"):
        Fleet.drawn(0, 0, RANGES)
    with pytest.raises(ValueError, match="one device per client"):
        Fleet.of([])


def test_a_fleet_cannot_be_changed_behind_its_checks():
    given_clock = np.array([1e9, 1e9])
    fleet = Fleet(clock_hz=given_clock, flop_per_cycle=1.0)
    given_clock[0] = -1.0
    assert fleet.clock_hz.tolist() == [1e9, 1e9]
    with pytest.raises(ValueError, match="read-only"):
        fleet.clock_hz[0] = 1.0


def test_a_fleet_smaller_than_the_clients_is_refused():
    fleet = Fleet.of([Device(clock_hz=1e9, flop_per_cycle=2.0)] * 3)
    fleet.check(3)
    fleet.check(2)
    with pytest.raises(ValueError, match="Fleet is for 3 clients, but num_clients=4"):
        fleet.check(4)


def test_ranges_are_checked():
    with pytest.raises(ValueError, match=r"FleetRanges\(clock_hz=\(2000000000.0, 1000000000.0\)\).*lower end first"):
        dataclasses.replace(RANGES, clock_hz=(2e9, 1e9))
    with pytest.raises(ValueError, match=r"FleetRanges\(transmit_power_watt=...\) is 20; .* looks like dBm"):
        dataclasses.replace(RANGES, transmit_power_watt=(0.1, 20.0))


def test_a_list_of_devices():
    fleet = Fleet.of(
        [Device(clock_hz=1e9, flop_per_cycle=2.0), Device(clock_hz=2e9, flop_per_cycle=1.0, efficiency=0.5)]
    )
    assert fleet.num_clients == 2
    assert fleet.flop_per_s(np.arange(2)).tolist() == [2e9, 1e9]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clock_hz": 0.0}, r"Server\(clock_hz=...\) is 0"),
        ({"efficiency": 1.5}, r"Server\(efficiency=...\) is 1.5"),
        ({"transmit_power_watt": 46.0}, r"is 46; .* at most 40 watts. It looks like dBm: 46 dBm are 39.81 W"),
        ({"watt_per_cubic_hz": -1.0}, r"Server\(watt_per_cubic_hz=...\) is -1"),
        ({"works": "quickly"}, r"Server\(works='quickly'\) is not accepted: give one of serial, parallel"),
        ({"inter_server_bit_per_s": 0.0}, r"Server\(inter_server_bit_per_s=...\) is 0; it must be above 0"),
    ],
)
def test_a_server_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Server(**{"clock_hz": 1e9, "flop_per_cycle": 1.0, **fields})
