"""Fading as it was recorded: the received level of a moving device, from a log."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray, read_only
from lightning_sfl.world.channel.fading import Direction
from lightning_sfl.world.channel.trace_files import read_log
from lightning_sfl.world.decibel import db_to_ratio


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedFading:
    """The gains of recorded gains, over and over again; up- and downlink have the same, as one path has.

    Args:
        time_s: When each gain begins to hold, from 0 on, and when the last one ends, shape (T + 1,).
        gain: The gains relative to their mean, each at least 0, shape (T, M): client i has column i modulo M.
    """

    time_s: FloatArray
    gain: FloatArray

    def __post_init__(self) -> None:
        times, gains = read_only(self.time_s), read_only(self.gain)
        if gains.ndim != 2 or 0 in gains.shape or times.shape != (len(gains) + 1,):
            raise ValueError(
                f"RecordedFading has time_s of the shape {times.shape} for gains of the shape {gains.shape}; give"
                " gains (T, M) and one time more than there are rows."
            )
        if times[0] != 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ValueError("RecordedFading(time_s=...) is not accepted: times must begin at 0 and increase.")
        if not (np.isfinite(gains) & (gains >= 0)).all() or not gains.any(axis=0).all():
            raise ValueError(
                "RecordedFading(gain=...) is not accepted: gains must be at least 0, and not 0 all the time."
            )
        object.__setattr__(self, "time_s", times)
        object.__setattr__(self, "gain", gains)

    @classmethod
    def of_logs(
        cls, paths: Sequence[Path], *, time_column: str, level_column: str, time_format: str | None = None
    ) -> Self:
        """The fading of logs with a column of received levels in decibels (dB, dBm), one log per client or fewer.

        A level holds until the next time; logs end with the shortest of them. What counts is how far a level is from
        its log's mean gain: the mean of each log is 1.

        Args:
            paths: Files of comma-separated values, plain or compressed (``.gz``).
            time_column: Name of the column of times.
            level_column: Name of the column of levels, such as RSRP.
            time_format: How times are written, for ``datetime.strptime``; None: in seconds.
        """
        if not paths:
            raise ValueError("RecordedFading.of_logs([]) is not accepted: give one log or more.")
        logs = [read_log(path, time_column, level_column, time_format) for path in paths]
        end = min(float(times[-1] - times[0]) for times, _ in logs)
        grid = np.unique(np.concatenate([times - times[0] for times, _ in logs]))
        grid = np.append(grid[grid < end], end)
        columns = []
        for times, levels in logs:
            gain = np.array([db_to_ratio(level) for level in levels])
            held = gain[np.searchsorted(times - times[0], grid[:-1], side="right") - 1]
            columns.append(held / float((held * np.diff(grid)).sum() / end))
        return cls(time_s=grid, gain=np.stack(columns, axis=1))

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Fading.varies_within_round`."""
        return True

    def block(self, round: int, start_s: FloatArray) -> IntArray:
        """See :meth:`Fading.block`."""
        period = self.time_s[-1]
        cycle = np.floor(start_s / period)
        # An instant at a period's very end may be rounded to either side of it.
        place = np.searchsorted(self.time_s, start_s - cycle * period, side="right") - 1
        found: IntArray = (cycle * len(self.gain) + np.clip(place, 0, len(self.gain) - 1)).astype(np.int64)
        return found

    def end_s(self, block: int) -> float:
        """See :meth:`Fading.end_s`."""
        cycle, place = divmod(block, len(self.gain))
        return float(cycle * self.time_s[-1] + self.time_s[place + 1])

    def factor(self, direction: Direction, clients: IntArray, block: int) -> FloatArray:
        """See :meth:`Fading.factor`."""
        found: FloatArray = self.gain[block % len(self.gain), clients % self.gain.shape[1]]
        return found
