"""`lightning-sfl plan`: the table of valid cuts with what they cost a fleet, without training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from lightning_sfl.cli.job import Run, instantiated
from lightning_sfl.cli.plan_fleet import FleetPlan
from lightning_sfl.cli.plan_json import plan_document
from lightning_sfl.cli.plan_model import PlannedModel, plan_model
from lightning_sfl.cli.plan_setting import PlanSetting, setting_of
from lightning_sfl.cli.plan_table import print_plan
from lightning_sfl.report.gantt import MOST_CLIENTS, Bar, gantt_svg
from lightning_sfl.strategy.cuts import Cuts
from lightning_sfl.world.arrays import IntArray
from lightning_sfl.world.cost.timeline import timeline
from lightning_sfl.world.world import World

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI

_WIDTH = 160


def plan(cli: "SplitCLI", *, environment: str | None, json_file: Path | None, gantt_file: Path | None) -> None:
    """Carry the command out.

    Raises:
        ValueError: A file to write exists already, the environment is not known, or a client has too little memory for
            every cut.
    """
    for name, path in {"json": json_file, "gantt": gantt_file}.items():
        if path is not None and path.exists():
            raise ValueError(f"{name}={str(path)!r} exists already; give another file.")
    run = instantiated(cli)
    setting = setting_of(run, environment)
    model = plan_model(run)
    fleet = FleetPlan(
        world=_world(model, setting),
        schedule=setting.schedule,
        batch_size=setting.batch_size,
        sends_state=setting.sends_state,
        bits=setting.bits,
    )
    chart = None if gantt_file is None else gantt_of_round(fleet, _cuts_of(run, model))
    costs = fleet.costs()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)  # written to a file or a pipe: nothing is cut short
    print_plan(console, model, costs, setting, rounds=fleet.rounds)
    if json_file is not None:
        document = plan_document(model, costs, setting, rounds=fleet.rounds)
        json_file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if gantt_file is not None and chart is not None:
        gantt_file.write_text(chart, encoding="utf-8")


def _world(model: PlannedModel, setting: PlanSetting) -> World:
    return World(
        profile=model.profile,
        fleet=setting.environment.fleet,
        channel=setting.environment.channel,
        server=setting.environment.server,
        algorithm=setting.algorithm,
        aggregate_every=setting.steps_per_round,
        probes=setting.probes,
        flop_per_mac=setting.flop_per_mac,
        quantised=setting.quantised,
    )


def _cuts_of(run: Run, model: PlannedModel) -> IntArray:
    """Where every registered client cuts in the run: rows of the plan."""
    strategy = run.strategy
    cuts = Cuts.given(strategy.cut, strategy.num_clients)
    return np.array([model.place(cuts.of(client)) for client in range(strategy.num_clients)])


def gantt_of_round(fleet: FleetPlan, cuts: IntArray) -> str:
    """The chart of a run's first round. Where it cannot draw everybody, the straggler comes first."""
    cost = fleet.round(cuts, round=0)
    intervals = timeline(cost)
    if len(cost.clients) > MOST_CLIENTS:
        slowest = f"client/{cost.straggler}"
        intervals = tuple(sorted(intervals, key=lambda interval: interval.party != slowest))
    return gantt_svg(
        [
            Bar(party=interval.party, stage=interval.stage, start_s=interval.start_s, end_s=interval.end_s)
            for interval in intervals
        ]
    )
