"""Recorded links from files: packet deliveries as mahimahi has them, and logs with a time and a rate column."""

import csv
import gzip
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.channel.traces import CapacityTrace

PACKET_BIT = 1500 * 8  # of one delivery opportunity

RateUnit = Literal["bit/s", "kbit/s", "Mbit/s", "kB/s"]
_BIT_PER_S: Mapping[RateUnit, float] = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "kB/s": 8e3}


def read_mahimahi(path: Path) -> CapacityTrace:
    """Read a packet-delivery trace: each line is the millisecond of an opportunity to deliver 1500 bytes.

    The trace is as long as its last line says and then begins anew (mahimahi's link shells; Winstein et al. 2013). An
    opportunity at millisecond t is spread over the millisecond that ends at t, so that a file of the single line "1"
    is a link of 12 Mbit/s. One at millisecond 0 lies at the end of the round before, thus in the last millisecond.

    Args:
        path: The file, plain or compressed (``.gz``).
    """
    stamps: list[int] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            stamp = int(line)
        except ValueError:
            raise _refused(path, number, line, "a whole number of milliseconds") from None
        if stamp < 0:
            raise _refused(path, number, line, "at least 0 milliseconds")
        if stamps and stamp < stamps[-1]:
            raise _backwards(path, number, line, str(stamps[-1]))
        stamps.append(stamp)
    if not stamps:
        raise _empty(path)
    length = stamps[-1]
    if length == 0:
        raise _refused(path, len(stamps), "0", "a last line after millisecond 0, which is the length of the trace")
    millisecond = np.array(stamps, dtype=np.int64)
    millisecond = np.sort(np.where(millisecond == 0, length, millisecond))
    edges = np.unique(np.concatenate(([0, length], millisecond - 1, millisecond)))
    packets = np.searchsorted(millisecond, edges, side="right")
    return CapacityTrace(time_s=edges / 1000.0, bit=packets.astype(np.float64) * PACKET_BIT, name=str(path))


def read_rate_log(
    path: Path, *, time_column: str, rate_column: str, rate_unit: RateUnit, time_format: str | None = None
) -> CapacityTrace:
    """Read a log with a header, a column of times and a column of rates.

    A rate holds until the next time, the last one for as long as the median of the others. Rows of the same time,
    which logs of whole seconds have, count as one with their mean rate.

    Args:
        path: A file of comma-separated values, plain or compressed (``.gz``).
        time_column: Name of the column of times.
        rate_column: Name of the column of rates.
        rate_unit: Unit of the rates.
        time_format: How times are written, for ``datetime.strptime``; None: in seconds.
    """
    if rate_unit not in _BIT_PER_S:
        raise ValueError(f"rate_unit={rate_unit!r} is not accepted: give one of {', '.join(_BIT_PER_S)}.")
    times, rates = read_log(path, time_column, rate_column, time_format, least=0.0)
    ends = np.append(times, times[-1] + float(np.median(np.diff(times))))
    return CapacityTrace.of_rates(ends, rates * _BIT_PER_S[rate_unit], name=str(path))


def read_log(
    path: Path, time_column: str, value_column: str, time_format: str | None, *, least: float = -math.inf
) -> tuple[FloatArray, FloatArray]:
    """Times in seconds, in ascending order, and the mean of the values at each of them.

    Args:
        path: A file of comma-separated values, plain or compressed (``.gz``).
        time_column: Name of the column of times.
        value_column: Name of the column of values.
        time_format: How times are written, for ``datetime.strptime``; None: in seconds.
        least: The least value that is accepted.
    """
    seconds = float if time_format is None else _seconds_since_first(time_format)
    times: list[float] = []
    values: list[list[float]] = []
    reader = csv.DictReader(_text(path).splitlines())
    for column in (time_column, value_column):
        if column not in (reader.fieldnames or ()):
            known = ", ".join(reader.fieldnames or ()) or "none"
            raise ValueError(f"{path} has no column {column!r}; its columns: {known}.")
    for row in reader:
        number = reader.line_num
        written = row[time_column]
        time = _number(path, number, time_column, written, seconds)
        value = _number(path, number, value_column, row[value_column], float)
        if value < least:
            raise _refused(path, number, row[value_column], f"a {value_column} of at least {least:g}")
        if times and time < times[-1]:
            raise _backwards(path, number, written, "the line before it")
        if times and time == times[-1]:
            values[-1].append(value)
        else:
            times.append(time)
            values.append([value])
    if not times:
        raise _empty(path)
    if len(times) == 1:
        raise ValueError(f"{path} has one time alone, {written!r}; give two or more, so that there is a length.")
    return np.array(times), np.array([sum(each) / len(each) for each in values])


def read_ucc_5g_log(path: Path, rate_column: Literal["DL_bitrate", "UL_bitrate"] = "DL_bitrate") -> CapacityTrace:
    """Read a log of the UCC 5G data set (Raca et al., MMSys 2020).

    Its bitrates are what an application used, not what the link could carry: rows of ``State`` I are idle, and a video
    is idle most of the time. Logs of downloads come close to the downlink's capacity; uplinks hold little but
    acknowledgements. All rows count as they stand.

    Args:
        path: One comma-separated file of the data set.
        rate_column: ``DL_bitrate`` or ``UL_bitrate``, in kbit/s.
    """
    return read_rate_log(
        path,
        time_column="Timestamp",
        rate_column=rate_column,
        rate_unit="kbit/s",
        time_format="%Y.%m.%d_%H.%M.%S",
    )


def _text(path: Path) -> str:
    raw = Path(path).read_bytes()
    return (gzip.decompress(raw) if Path(path).suffix == ".gz" else raw).decode("utf-8-sig")


def _seconds_since_first(time_format: str) -> Callable[[str], float]:
    epoch = datetime(1970, 1, 1)  # local time without a zone, as it is written

    def seconds(written: str) -> float:
        return (datetime.strptime(written, time_format) - epoch).total_seconds()

    return seconds


def _number(path: Path, line: int, column: str, written: str | None, convert: Callable[[str], float]) -> float:
    try:
        value = convert(written or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _refused(path, line, written, f"a {column} that is a finite number or a time in its format")
    return value


def _refused(path: Path, line: int, value: str | None, wanted: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {value!r} is not accepted; give {wanted}.")


def _backwards(path: Path, line: int, value: str, before: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {value!r} is earlier than {before}; time must not run backwards.")


def _empty(path: Path) -> ValueError:
    return ValueError(f"{path} has no entries; give a trace of at least one.")
