"""Fading as it was recorded."""

import zipfile

import numpy as np
import pytest
from transmissions import sent

from lightning_sfl.world.channel.recorded_gain import RecordedFading
from lightning_sfl.world.channel.wireless import OwnBandwidth, WirelessChannel

TWO = RecordedFading(time_s=np.array([0.0, 1.0, 4.0]), gain=np.array([[3.0, 0.0], [0.5, 2.0]]))


def channel(fading, clients):
    """1 Hz each, a signal to noise ratio of 1 at the mean gain: log2(1 + gain) bit/s."""
    return WirelessChannel(
        uplink_gain=np.full(clients, 1e-3),
        downlink_gain=np.full(clients, 1e-3),
        client_power_watt=np.full(clients, 1.0),
        server_power_watt=1.0,
        uplink_bandwidth=OwnBandwidth(bandwidth_hz=np.ones(clients)),
        downlink_bandwidth=OwnBandwidth(bandwidth_hz=np.ones(clients)),
        noise_watt_per_hz=1e-12,
        fading=fading,
    )


def test_gains_hold_from_one_time_to_the_next_and_begin_anew():
    """One second of the first row, three of the second; the clients 0, 2, ... have the first column."""
    at = [0.0, 0.999, 1.0, 3.999, 4.0, 5.5, 8.0]
    blocks = TWO.block(0, np.array(at))
    assert blocks.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert [TWO.end_s(block) for block in range(4)] == [1.0, 4.0, 5.0, 8.0]
    assert [TWO.factor("uplink", np.array([0, 1, 2]), block).tolist() for block in (0, 1, 2)] == [
        [3.0, 0.0, 3.0],
        [0.5, 2.0, 0.5],
        [3.0, 0.0, 3.0],
    ]


def test_what_is_sent_waits_out_an_outage():
    """Client 1 has nothing for a second, then for three a signal 1e9 · 2 times the noise: log2(2e9 + 1) = 30.9 bit/s.
    62 bit take 1 s + 62 / 30.9 s. Of 93 bit, 92.69 go by second 4; the rest has another second to wait."""
    found = channel(TWO, 2)
    rate = np.log2(1 + 2e9)
    assert found.varies_within_round
    assert found.uplink_s(np.array([62.0]), sent(1)) == pytest.approx(1 + 62 / rate)
    assert found.uplink_s(np.array([93.0]), sent(1)) == pytest.approx(1 + 3 + 1 + (93 - 3 * rate) / rate)
    assert found.uplink_s(np.array([62.0]), sent(1, start_s=2.0)) == pytest.approx(2 + 1 + (62 - 2 * rate) / rate)
    assert found.downlink_bit_per_s(sent(1, start_s=0.5)) == 0


def test_levels_of_a_log_are_gains_about_their_mean(tmp_path):
    """-90, -80 and -90 dBm for 1, 2 and 1 s (the last time only ends the log): relative to the first 1, 10 and 1, of
    which the mean over time is 22 / 4."""
    (tmp_path / "log").write_text("t,RSRP\n10,-90\n11,-80\n13,-90\n14,-70\n")
    found = RecordedFading.of_logs([tmp_path / "log"], time_column="t", level_column="RSRP")
    assert found.time_s.tolist() == [0, 1, 3, 4]
    assert found.gain[:, 0] == pytest.approx(np.array([1, 10, 1]) * 4 / 22)


def test_logs_of_different_times_share_a_grid_and_end_with_the_shortest(tmp_path):
    (tmp_path / "a").write_text("t,level\n0,0\n2,0\n4,0\n")
    (tmp_path / "b").write_text("t,level\n7,0\n8,10\n10,99\n")
    found = RecordedFading.of_logs([tmp_path / "a", tmp_path / "b"], time_column="t", level_column="level")
    assert found.time_s.tolist() == [0, 1, 2, 3]
    assert found.gain[:, 0].tolist() == [1, 1, 1]
    assert found.gain[:, 1] == pytest.approx(np.array([1, 10, 10]) * 3 / 21)


@pytest.mark.parametrize(
    ("time_s", "gain", "said"),
    [
        ([0, 1], [[1.0], [1.0]], "one time more than there are rows"),
        ([0, 2, 1], [[1.0], [1.0]], "times must begin at 0 and increase"),
        ([1, 2], [[1.0]], "times must begin at 0 and increase"),
        ([0, 1], [[-1.0]], "gains must be at least 0"),
        ([0, 1], [[np.nan]], "gains must be at least 0"),
        ([0, 1], [[0.0]], "not 0 all the time"),
    ],
)
def test_what_is_no_recording_is_refused(time_s, gain, said):
    with pytest.raises(ValueError, match=said):
        RecordedFading(time_s=np.array(time_s, dtype=float), gain=np.array(gain))


def test_a_log_whose_time_runs_backwards_is_refused(tmp_path):
    (tmp_path / "log").write_text("t,level\n5,0\n4,0\n")
    with pytest.raises(ValueError, match="line 3: '4' is earlier than the line before it"):
        RecordedFading.of_logs([tmp_path / "log"], time_column="t", level_column="level")


@pytest.mark.data
def test_a_5g_log_has_levels(data_folder, tmp_path):
    """The reference signal's power of a drive, in dBm; the mean of the gains over time is 1."""
    with zipfile.ZipFile(data_folder / "traces" / "5g_ucc" / "5g_production.zip") as archive:
        name = next(name for name in sorted(archive.namelist()) if "Download" in name and "Driving" in name)
        (tmp_path / "log").write_bytes(archive.read(name))
    found = RecordedFading.of_logs(
        [tmp_path / "log"], time_column="Timestamp", level_column="RSRP", time_format="%Y.%m.%d_%H.%M.%S"
    )
    assert (found.gain[:, 0] * np.diff(found.time_s)).sum() / found.time_s[-1] == pytest.approx(1)
    assert 10 * np.log10(found.gain.max() / found.gain.min()) > 10
