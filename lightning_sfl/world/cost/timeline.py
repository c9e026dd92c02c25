"""One round as intervals: who computes, sends or waits when."""

import dataclasses
from collections.abc import Iterable
from enum import StrEnum

import numpy as np

from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.cost.round_cost import RoundCost
from lightning_sfl.world.cost.step_cost import StepCost

SERVER = "server"

_ROUNDING = 1e-12
"""Times that are added up in another order differ by less than this share of them; nobody waits for that."""


class Stage(StrEnum):
    """What a party does."""

    BROADCAST = "broadcast"
    RESPLIT = "resplit"
    FORWARD = "forward"
    UPLINK = "uplink"
    SERVER = "server"
    LOSS = "loss"
    DOWNLINK = "downlink"
    BACKWARD = "backward"
    UPLOAD = "upload"
    AGGREGATION = "aggregation"
    WAIT = "wait"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """What one party does from when to when.

    Attributes:
        party: ``"server"`` or ``"client/3"``.
        stage: What it does.
        start_s: From when.
        end_s: Until when.
    """

    party: str
    stage: Stage
    start_s: float
    end_s: float


def timeline(cost: RoundCost, start_s: float = 0.0) -> tuple[Interval, ...]:
    """A round's intervals, party by party in order of time: clients in their order, then the server.

    Every party's intervals cover the whole round without a gap; what takes no time has none. What crosses stands with
    the client that sends or receives it; the server's sending to the federation server stands with the server.
    """
    rows = _Rows([*(f"client/{client}" for client in cost.clients), SERVER], start_s)
    if not cost.rule.uses_cut:
        _apart(rows, cost, start_s)
    else:
        _together(rows, cost, start_s)
    return rows.closed(start_s + cost.total_s)


class _Rows:
    """The intervals of every party so far; the last row is the server's."""

    def __init__(self, parties: list[str], start_s: float) -> None:
        self._parties = parties
        self._free_s = [start_s] * len(parties)
        self._found: list[list[Interval]] = [[] for _ in parties]

    def busy(self, row: int, stage: Stage, start_s: float, seconds: float) -> float:
        """Let a party do something, after having waited for it if need be; returns when it ends."""
        end_s = start_s + seconds
        if seconds > 0:
            self._wait(row, start_s)
            self._add(row, stage, end_s)
        return end_s

    def all_clients(self, start_s: float, stages: Iterable[tuple[Stage, FloatArray]]) -> None:
        """Let every client do one thing after the other."""
        for row, seconds in enumerate(np.stack([array for _, array in stages], axis=1).tolist()):
            now_s = start_s
            for (stage, _), taken in zip(stages, seconds, strict=True):
                now_s = self.busy(row, stage, now_s, taken)

    def closed(self, end_s: float) -> tuple[Interval, ...]:
        """All intervals, everybody having waited for the end."""
        for row in range(len(self._parties)):
            self._wait(row, end_s)
        return tuple(interval for row in self._found for interval in row)

    def _wait(self, row: int, until_s: float) -> None:
        if until_s - self._free_s[row] > _ROUNDING * until_s:
            self._add(row, Stage.WAIT, until_s)

    def _add(self, row: int, stage: Stage, end_s: float) -> None:
        start_s = self._free_s[row]
        if end_s > start_s:
            self._found[row].append(Interval(party=self._parties[row], stage=stage, start_s=start_s, end_s=end_s))
            self._free_s[row] = end_s


def _apart(rows: _Rows, cost: RoundCost, start_s: float) -> None:
    """Clients that do not meet before the average."""
    stages = [(Stage.BROADCAST, cost.opening.broadcast_s)]
    for step in cost.steps:
        stages += [(Stage.FORWARD, step.forward_s), (Stage.BACKWARD, step.backward_s)]
    rows.all_clients(start_s, [*stages, (Stage.UPLOAD, cost.closing.upload_s)])
    averages_s = start_s + float(cost.client_s.max())
    rows.busy(-1, Stage.AGGREGATION, averages_s, cost.closing.aggregation_s)


def _together(rows: _Rows, cost: RoundCost, start_s: float) -> None:
    """Clients that meet at the server in every step, or are served one by one."""
    opening, closing, now_s = cost.opening, cost.closing, start_s
    rows.all_clients(now_s, [(Stage.BROADCAST, opening.broadcast_s)])
    rows.busy(-1, Stage.BROADCAST, now_s, opening.inter_server_s)
    rows.all_clients(now_s + opening.sent_s, [(Stage.RESPLIT, opening.resplit_s)])
    now_s += opening.total_s
    if cost.rule.one_by_one:
        for row in range(len(cost.clients)):
            for step in cost.steps:
                now_s = _served_alone(rows, step, row, now_s)
    else:
        for step in cost.steps:
            arrived_s = now_s + step.up_s
            rows.all_clients(now_s, [(Stage.FORWARD, step.forward_s), (Stage.UPLINK, step.uplink_s)])
            served_s = rows.busy(-1, Stage.SERVER, arrived_s, step.served_s)
            turn = [(Stage.DOWNLINK, step.turn_down_s), (Stage.LOSS, step.turn_s), (Stage.UPLINK, step.turn_up_s)]
            rows.all_clients(served_s, turn)
            served_s = rows.busy(-1, Stage.SERVER, served_s + step.turned_s, step.returned_s)
            rows.all_clients(served_s, [(Stage.DOWNLINK, step.downlink_s), (Stage.BACKWARD, step.backward_s)])
            now_s += step.total_s
    rows.all_clients(now_s, [(Stage.UPLOAD, closing.upload_s)])
    rows.busy(-1, Stage.UPLOAD, now_s, closing.inter_server_s)
    rows.busy(-1, Stage.AGGREGATION, now_s + closing.sent_s, closing.aggregation_s)


def _served_alone(rows: _Rows, step: StepCost, row: int, start_s: float) -> float:
    """One mini-batch of one client; returns when it ends."""
    now_s = rows.busy(row, Stage.FORWARD, start_s, float(step.forward_s[row]))
    now_s = rows.busy(row, Stage.UPLINK, now_s, float(step.uplink_s[row]))
    now_s = rows.busy(-1, Stage.SERVER, now_s, float(step.server_s[row]))
    now_s = rows.busy(row, Stage.DOWNLINK, now_s, float(step.turn_down_s[row]))
    now_s = rows.busy(row, Stage.LOSS, now_s, float(step.turn_s[row]))
    now_s = rows.busy(row, Stage.UPLINK, now_s, float(step.turn_up_s[row]))
    now_s = rows.busy(-1, Stage.SERVER, now_s, float(step.return_s[row]))
    now_s = rows.busy(row, Stage.DOWNLINK, now_s, float(step.downlink_s[row]))
    return rows.busy(row, Stage.BACKWARD, now_s, float(step.backward_s[row]))
