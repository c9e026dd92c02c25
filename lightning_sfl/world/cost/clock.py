"""The simulated clock of a run: seconds, and joules of every party."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.cost.round_cost import ClosingCost, OpeningCost, RoundCost
from lightning_sfl.world.cost.step_cost import StepCost


class Clock:
    """Adds up what steps and rounds cost. Only clients that took part cost memory.

    Clients without a cut do not meet between averages: each has a time of its own within a round, and the clock shows
    the latest.

    Attributes:
        seconds: Simulated seconds since the run's start.
        steps: Steps so far; one by one, every mini-batch is a step.
        rounds: Rounds that have ended.
        client_compute_joule: What computing took, by client.
        client_radio_joule: What sending took, by client.
        server_compute_joule: What the server's computing took.
        server_radio_joule: What its sending took.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self.rounds = 0
        self.client_compute_joule: dict[int, float] = {}
        self.client_radio_joule: dict[int, float] = {}
        self.server_compute_joule = 0.0
        self.server_radio_joule = 0.0
        self._began_s = 0.0
        self._ahead_s: dict[int, float] = {}

    def start_s(self, clients: IntArray) -> FloatArray:
        """When each of these clients can begin what comes next."""
        if not self._ahead_s:
            return np.full(len(clients), self.seconds)
        return np.array([self._ahead_s.get(client, self._began_s) for client in clients.tolist()])

    def advance(self, cost: OpeningCost | StepCost | ClosingCost | RoundCost) -> None:
        """Let happen what this cost; a whole round only between rounds."""
        if cost.rule.uses_cut or isinstance(cost, RoundCost):
            self.seconds += cost.total_s
        else:
            self._advance_apart(cost)
        _add(self.client_radio_joule, cost.clients, cost.radio_joule)
        if isinstance(cost, StepCost | RoundCost):
            batches = 1 if isinstance(cost, StepCost) else len(cost.steps)
            self.steps += batches * (len(cost.clients) if cost.rule.one_by_one else 1)
            _add(self.client_compute_joule, cost.clients, cost.compute_joule)
        if isinstance(cost, ClosingCost | RoundCost):
            self.rounds += 1
        if not isinstance(cost, ClosingCost):
            self.server_radio_joule += cost.server_radio_joule
        if not isinstance(cost, OpeningCost):
            self.server_compute_joule += cost.server_compute_joule

    def _advance_apart(self, cost: OpeningCost | StepCost | ClosingCost) -> None:
        """Clients go on each by themselves, until they are averaged or, with none of them left for that, begin anew."""
        if not self._ahead_s or isinstance(cost, OpeningCost):
            self._began_s, self._ahead_s = self.seconds, {}
        ends_s = self.start_s(cost.clients) + cost.client_s
        self._ahead_s.update(zip(cost.clients.tolist(), ends_s.tolist(), strict=True))
        self.seconds = max(self._ahead_s.values())
        if isinstance(cost, ClosingCost):
            self.seconds += cost.aggregation_s
            self._ahead_s = {}

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain Python."""
        return {
            "seconds": self.seconds,
            "steps": self.steps,
            "rounds": self.rounds,
            "client_compute_joule": dict(self.client_compute_joule),
            "client_radio_joule": dict(self.client_radio_joule),
            "server_compute_joule": self.server_compute_joule,
            "server_radio_joule": self.server_radio_joule,
            "began_s": self._began_s,
            "ahead_s": dict(self._ahead_s),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.seconds, self.steps, self.rounds = state["seconds"], state["steps"], state["rounds"]
        self.client_compute_joule = dict(state["client_compute_joule"])
        self.client_radio_joule = dict(state["client_radio_joule"])
        self.server_compute_joule = state["server_compute_joule"]
        self.server_radio_joule = state["server_radio_joule"]
        self._began_s, self._ahead_s = state["began_s"], dict(state["ahead_s"])


def _add(sums: dict[int, float], clients: IntArray, values: FloatArray) -> None:
    for client, value in zip(clients.tolist(), values.tolist(), strict=True):
        sums[client] = sums.get(client, 0.0) + value
