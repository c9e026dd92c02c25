"""Fleets and rates read from files."""

import json
import math

import numpy as np
import pytest
from transmissions import sent

from lightning_sfl.world.devices.fleet import BackgroundLoad
from lightning_sfl.world.devices.fleet_files import fleet_from_csv, phone_fleet, read_ai_benchmark, wifi_channel

HEADER = "clock_hz,flop_per_cycle,memory_byte,efficiency\n"


def table(path, text):
    (path / "fleet.csv").write_text(text)
    return path / "fleet.csv"


def test_a_table_of_devices(tmp_path):
    fleet = fleet_from_csv(table(tmp_path, HEADER + "1e9,4,2e9,0.5\n2e9,8,,\n"), speed=BackgroundLoad(lowest=0.5))
    assert fleet.clock_hz.tolist() == [1e9, 2e9]
    assert fleet.memory_byte.tolist() == [2e9, math.inf]
    assert fleet.efficiency.tolist() == [0.5, 1.0]
    assert fleet.lowest_clock_hz.tolist() == [1e9, 2e9]
    assert fleet.speed == BackgroundLoad(lowest=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1e9,4,fast,1\n", r"fleet.csv, line 2: memory_byte='fast' is not accepted; give a number"),
        (HEADER + "1e9,4,1,1\n1e9,,1,1\n", r"fleet.csv, line 3: flop_per_cycle='' is not accepted"),
        (HEADER + "1e9,4,1,1\n1e9,4,1,2\n", r"fleet.csv: Fleet\(efficiency=...\) of client 1 is 2; it must be above 0"),
        (HEADER + "1e9,4,1,1,7\n", r"fleet.csv, line 2 has more entries than columns"),
        (HEADER, r"fleet.csv has no devices"),
        ("", r"fleet.csv has the columns none; it needs clock_hz, flop_per_cycle and may have lowest_clock_hz"),
        ("clock_hz\n1e9\n", r"fleet.csv has the columns clock_hz; it needs clock_hz, flop_per_cycle"),
        ("clock_hz,flop_per_cycle,ram\n1,1,1\n", r"has the columns clock_hz, flop_per_cycle, ram; it needs"),
        ("clock_hz,flop_per_cycle,clock_hz\n1,1,2\n", r"has the columns clock_hz, flop_per_cycle, clock_hz; it needs"),
    ],
)
def test_a_bad_table_is_refused_by_file_line_and_column(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        fleet_from_csv(table(tmp_path, text))


def phones(path, *entries):
    listed = [{"Model": name, "CPU": f"chip {name}", "RAM": ram, "Score": score} for name, ram, score in entries]
    (path / "phones.json").write_text(json.dumps(listed))
    return path / "phones.json"


def test_phones_by_hand(tmp_path):
    """Scores of 100 and 50: at 20 GFLOP/s for a, b computes 10 GFLOP/s; 2 GB are 2·2^30 byte."""
    listed = read_ai_benchmark(phones(tmp_path, ("a", "2GB", "100"), ("b", "1.5 GB", " 50 ")), "Score")
    fleet = phone_fleet(listed, 40, 0, reference="a", reference_flop_per_s=2e10, clock_hz=2e9)
    speeds = fleet.flop_per_s(np.arange(40))
    assert set(zip(speeds.tolist(), fleet.memory_byte.tolist(), strict=True)) == {
        (2e10, 2 * 2**30),
        (1e10, 1.5 * 2**30),
    }
    more = phone_fleet(listed, 60, 0, reference="b", reference_flop_per_s=1e10, clock_hz=1e9, watt_per_cubic_hz=1e-28)
    assert more.flop_per_s(np.arange(40)).tolist() == speeds.tolist()  # the same draws, the same ratio
    assert more.compute_watt(np.arange(1)) == pytest.approx([0.1])
    assert np.isnan(fleet.compute_watt(np.arange(1))).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("c", "2GB", "many"), r"phones.json, phone 1: Score='many' is not accepted; give a number of at least 0"),
        (("c", "2GB", "-3"), r"phones.json, phone 1: Score='-3' is not accepted"),
        (("c", "2GB", "0"), r"phones.json, phone 1: Score='0' is not accepted; give a score above 0"),
        (("c", "much", "1"), r"phones.json, phone 1: RAM='much' is not accepted; give gigabytes as in '8GB'"),
    ],
)
def test_a_bad_phone_is_refused_by_file_place_and_column(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        read_ai_benchmark(phones(tmp_path, ("a", "2GB", "100"), entry), "Score")


def test_bad_lists_and_references_are_refused(tmp_path):
    path = phones(tmp_path, ("a", "2GB", "1"), ("a", "2GB", "2"))
    with pytest.raises(ValueError, match="phone 0: .* is not accepted; give one with Model, CPU, RAM, Points"):
        read_ai_benchmark(path, "Points")
    listed = read_ai_benchmark(path, "Score")
    settings = {"reference_flop_per_s": 1e9, "clock_hz": 1e9}
    with pytest.raises(ValueError, match="reference='a' names 2 phones of the list, chip a, chip a; give the model"):
        phone_fleet(listed, 3, 0, reference="a", **settings)
    with pytest.raises(ValueError, match="reference='z' names 0 phones"):
        phone_fleet(listed, 3, 0, reference="z", **settings)
    path.write_text("{}")
    with pytest.raises(ValueError, match="a JSON list of at least one phone"):
        read_ai_benchmark(path)
    with pytest.raises(ValueError, match="a JSON object with at least one user"):
        wifi_channel(path, 3, 0)


def wifi(path, **changed):
    user = {"down_u": 1000.0, "down_sigma": 0.0, "up_u": 500.0, "up_sigma": 0.0, **changed}
    (path / "wifi.json").write_text(json.dumps({"someone": user}))
    return path / "wifi.json"


def test_wifi_speeds_by_hand(tmp_path):
    """1000 units of 1024 byte/s are 8.192 Mbit/s."""
    channel = wifi_channel(wifi(tmp_path), 3, 0)
    assert channel.downlink_bit_per_s(sent(2, 0)).tolist() == [8.192e6] * 2
    assert channel.uplink_bit_per_s(sent(2, 0)).tolist() == [4.096e6] * 2
    spread = wifi_channel(wifi(tmp_path, down_sigma=100.0), 3, 0)
    assert spread.downlink_sigma_bit_per_s.tolist() == [0.8192e6] * 3
    assert spread.uplink_sigma_bit_per_s.tolist() == [0.0] * 3


def test_bad_wifi_speeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="user someone: up_sigma='wide' is not accepted"):
        wifi_channel(wifi(tmp_path, up_sigma="wide"), 3, 0)
    with pytest.raises(ValueError, match="num_clients=0"):
        wifi_channel(wifi(tmp_path), 0, 0)


# Real lists


@pytest.mark.data
def test_the_list_of_phones_is_read(data_folder):
    """267 phones, of 1 to 12 GB; one of half the reference's score computes half as fast."""
    listed = read_ai_benchmark(data_folder / "traces" / "devices" / "ai_benchmark_phones.json")
    assert len(listed) == 267
    scores = {phone.score for phone in listed}
    fleet = phone_fleet(listed, 500, 0, reference="Huawei Mate 30 Pro 5G", reference_flop_per_s=1e10, clock_hz=2e9)
    found = fleet.flop_per_s(np.arange(500)) / 1e10 * 3744  # its score
    assert {round(score) for score in found} <= scores
    assert len(set(found.round())) > 150
    assert {phone.memory_byte for phone in listed} >= {2**30, 12 * 2**30}
    with pytest.raises(ValueError, match=r"reference='Samsung Galaxy S10\+' names 2 phones of the list, "):
        phone_fleet(listed, 5, 0, reference="Samsung Galaxy S10+", reference_flop_per_s=1e10, clock_hz=2e9)


@pytest.mark.data
def test_the_wifi_speeds_are_read(data_folder):
    """15 users; the fastest downloads at 17,333 units, 142 Mbit/s, the slowest uploads at 431, 3.5 Mbit/s."""
    channel = wifi_channel(data_folder / "traces" / "devices" / "wifi_speed_by_user.json", 300, 0)
    assert len(set(channel.mean_uplink_bit_per_s.tolist())) == 15
    assert channel.mean_downlink_bit_per_s.max() == pytest.approx(141.99e6, rel=1e-3)
    assert channel.mean_uplink_bit_per_s.min() == pytest.approx(3.530e6, rel=1e-3)
    assert channel.uplink_bit_per_s(sent(*range(300), round=3)).min() > 0
