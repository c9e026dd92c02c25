"""Recorded links read from files."""

import csv
import gzip
import zipfile

import numpy as np
import pytest

from lightning_sfl.world.channel.trace_files import read_mahimahi, read_rate_log, read_ucc_5g_log


def written(path, text):
    (path / "trace").write_text(text)
    return path / "trace"


def by(trace, *seconds):
    return trace.carried_bit(np.zeros(len(seconds)), np.array(seconds)).tolist()


def test_one_opportunity_per_millisecond_is_12_mbit_per_s(tmp_path):
    """The example of mahimahi's own description: the file "1". 1500 byte · 8 / 1 ms = 12 Mbit/s, evenly."""
    trace = read_mahimahi(written(tmp_path, "1\n"))
    assert trace.mean_bit_per_s == pytest.approx(12e6)
    assert trace.seconds(np.array([6e3, 36e6]), np.array([0.0, 5.0])) == pytest.approx([0.0005, 3.0])


def test_packet_deliveries_by_hand(tmp_path):
    """Lines 0, 2, 2, 5: 5 ms long; two packets in the 2nd millisecond, one in the 5th.

    The one at 0 is at the end of the round before, so that it makes two in the 5th.
    """
    trace = read_mahimahi(written(tmp_path, "0\n2\n2\n5\n"))
    assert trace.period_s == 0.005
    assert by(trace, 0.001, 0.0015, 0.002, 0.004, 0.005, 0.010) == pytest.approx(
        [0, 12_000, 24_000, 24_000, 48_000, 96_000]
    )
    assert trace.seconds(np.array([24e3, 24e3 + 1]), np.zeros(2)) == pytest.approx([0.002, 0.004 + 1 / 24e6])


def test_a_compressed_file_is_the_same(tmp_path):
    with gzip.open(tmp_path / "trace.gz", "wt") as file:
        file.write("1\n4\n")
    plain, packed = read_mahimahi(written(tmp_path, "1\n4\n")), read_mahimahi(tmp_path / "trace.gz")
    assert plain.time_s.tolist() == packed.time_s.tolist()
    assert plain.bit.tolist() == packed.bit.tolist()
    assert packed.name.endswith("trace.gz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n5\n4\n", r"trace, line 3: '4' is earlier than 5; time must not run backwards"),
        ("1\n-5\n", r"trace, line 2: '-5' is not accepted; give at least 0"),
        ("1\nfast\n", r"trace, line 2: 'fast' is not accepted; give a whole number of milliseconds"),
        ("1\n\n2\n", r"trace, line 2: '' is not accepted"),
        ("", r"trace has no entries"),
        ("0\n0\n", r"trace, line 2: '0' is not accepted; .*the length of the trace"),
    ],
)
def test_bad_packet_deliveries_are_refused_by_file_line_and_value(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_mahimahi(written(tmp_path, text))


LOG = "at,place,rate\n10,a,4\n12,b,1\n12,c,3\n13,d,0\n"


def read(path, **changed):
    fields = {"time_column": "at", "rate_column": "rate", "rate_unit": "kbit/s", **changed}
    return read_rate_log(path, **fields)


@pytest.mark.parametrize(("unit", "factor"), [("bit/s", 1), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("kB/s", 8e3)])
def test_a_log_by_hand(tmp_path, unit, factor):
    """4 for 2 s, the mean 2 of two rows for 1 s, and 0 for the median of 2 and 1 s: 10 in 4.5 s."""
    trace = read(written(tmp_path, LOG), rate_unit=unit)
    assert trace.period_s == 4.5
    assert by(trace, 1.0, 2.0, 3.0, 4.5, 5.5) == pytest.approx([x * factor for x in (4, 8, 10, 10, 14)])


def test_a_log_with_dates(tmp_path):
    """Over the end of a day and of a leap year's February: 2 s, then 24 h."""
    text = "t,r\n2020.02.28_23.59.59,1\n2020.02.29_00.00.01,2\n2020.03.01_00.00.01,0\n"
    trace = read(written(tmp_path, text), time_column="t", rate_column="r", time_format="%Y.%m.%d_%H.%M.%S")
    assert by(trace, 2.0, 2.0 + 86400) == pytest.approx([2e3, 2e3 + 2e3 * 86400])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at,rate\n5,1\n4,1\n", r"trace, line 3: '4' is earlier than the line before it; time must not run backwards"),
        ("at,rate\n5,1\n6,-2\n", r"trace, line 3: '-2' is not accepted; give a rate of at least 0"),
        ("at,rate\n5,1\n6,-\n", r"trace, line 3: '-' is not accepted; give a rate that is a finite number"),
        ("at,rate\n5,1\n6\n", r"trace, line 3: None is not accepted"),
        ("at,rate\nnan,1\n", r"trace, line 2: 'nan' is not accepted; give a at that"),
        ("at,rate\n", r"trace has no entries"),
        ("at,speed\n5,1\n", r"trace has no column 'rate'; its columns: at, speed"),
        ("", r"trace has no column 'at'; its columns: none"),
        ("at,rate\n5,1\n5,2\n", r"trace has one time alone, '5'"),
        ("at,rate\n5,0\n6,0\n", r"trace never delivers a bit"),
    ],
)
def test_bad_logs_are_refused_by_file_line_and_value(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, text))


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rate_unit='MB' is not accepted: give one of bit/s, kbit/s, Mbit/s, kB/s"):
        read(written(tmp_path, LOG), rate_unit="MB")


# Real recordings


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mbit_per_s"),
    [
        ("ATT-LTE-driving.down", 5.17),
        ("ATT-LTE-driving.up", 0.83),
        ("TMobile-LTE-driving.down", 12.77),
        ("TMobile-LTE-short.down", 16.7),
        ("TMobile-LTE-short.up", 13.3),
        ("TMobile-UMTS-driving.down", 2.02),
        ("TMobile-UMTS-driving.up", 0.94),
        ("Verizon-EVDO-driving.down", 0.52),
        ("Verizon-EVDO-driving.up", 0.84),
    ],
)
def test_recorded_networks_have_their_published_mean_rates(data_folder, name, mbit_per_s):
    """As listed with the data, to three digits; and a long transmission sees the mean."""
    trace = read_mahimahi(data_folder / "traces" / "cellular_saturator" / f"{name}.gz")
    assert trace.mean_bit_per_s / 1e6 == pytest.approx(mbit_per_s, abs=0.05 if mbit_per_s > 13 else 0.005)
    seconds = trace.seconds(np.array([trace.bit[-1] * 3]), np.array([17.0]))
    assert seconds == pytest.approx([3 * trace.period_s], rel=1e-3)


def unpacked(data_folder, tmp_path, name):
    with zipfile.ZipFile(data_folder / "traces" / "5g_ucc" / "5g_production.zip") as archive:
        return archive.extract(name, tmp_path)


@pytest.mark.data
def test_a_5g_download_is_read(data_folder, tmp_path):
    """A log of 1,013 rows, 74 of which share their second. Every second has its mean rate, until the next one.

    So the mean is that of the seconds, each as often as it lasts: 130 Mbit/s, where the rows' own is 121 Mbit/s.
    """
    path = unpacked(data_folder, tmp_path, "Download/Static/B_2020.02.14_13.21.26.csv")
    down, up = read_ucc_5g_log(path), read_ucc_5g_log(path, "UL_bitrate")
    with open(path) as file:
        rows = [(row["Timestamp"], float(row["DL_bitrate"]) * 1e3) for row in csv.DictReader(file)]
    assert np.mean([rate for _, rate in rows]) == pytest.approx(121.02e6, rel=1e-4)
    seconds = {}
    for stamp, rate in rows:
        hour, minute, second = (int(part) for part in stamp.split("_")[1].split("."))
        seconds.setdefault(hour * 3600 + minute * 60 + second, []).append(rate)
    times = [*seconds, max(seconds) + 1]  # the median step is a second
    carried = sum(
        np.mean(rates) * (later - now) for (now, rates), later in zip(seconds.items(), times[1:], strict=True)
    )
    assert len(down.time_s) == 1013 - 74 + 1 == len(times)
    assert down.period_s == times[-1] - times[0]
    assert down.mean_bit_per_s == pytest.approx(carried / (times[-1] - times[0]))
    assert down.mean_bit_per_s == pytest.approx(130.2e6, rel=1e-3)
    assert 0 < up.mean_bit_per_s < 0.05 * down.mean_bit_per_s  # acknowledgements alone


@pytest.mark.data
def test_a_5g_log_whose_clock_was_set_back_is_refused(data_folder, tmp_path):
    path = unpacked(data_folder, tmp_path, "Netflix/Driving/Season3-StrangerThings/B_2019.11.27_07.29.47.csv")
    with pytest.raises(ValueError, match=r"07.29.47.csv, line \d+: '2019.11.27_.*time must not run backwards"):
        read_ucc_5g_log(path)
