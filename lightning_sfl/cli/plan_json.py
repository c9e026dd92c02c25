"""A plan as JSON, for machines: unrounded, with an entry per client. What is not known, or unlimited, is null."""

import math
from collections.abc import Sequence

from lightning_sfl.cli.plan_fleet import CutCosts
from lightning_sfl.cli.plan_model import PlannedModel
from lightning_sfl.cli.plan_setting import PlanSetting
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.model.profile import at

SCHEMA = "lightning_sfl.plan/1"

Entry = dict[str, object]


def plan_document(model: PlannedModel, costs: Sequence[CutCosts], setting: PlanSetting, *, rounds: int) -> Entry:
    """The whole plan; units are in the names."""
    schedule, environment = setting.schedule, setting.environment
    clients = schedule.num_clients
    return {
        "schema": SCHEMA,
        "settings": {
            "algorithm": setting.algorithm,
            "num_clients": clients,
            "clients_per_round": schedule.clients_per_round,
            "steps_per_round": setting.steps_per_round,
            "batch_size": setting.nominal_batch_size,
            "client_batch_size": setting.batch_size.tolist(),
            "sends_optimizer_state": setting.sends_state and model.counted_state,
            "counts_optimizer_state": model.counted_state,
            "cuts_ran_apart": model.ran_apart,
            "rounds_averaged": rounds,
        },
        "environment": {
            "name": setting.name,
            "seed": setting.seed,
            "flop_per_mac": setting.flop_per_mac,
            "server": environment.server.works,
            "client_flop_per_s": _numbers(_peak_flop_per_s(setting)),
            "client_memory_byte": _numbers(environment.fleet.memory_byte[:clients]),
        },
        "cuts": [_cut(model, place, cost, setting) for place, cost in enumerate(costs)],
    }


def _cut(model: PlannedModel, place: int, cost: CutCosts, setting: PlanSetting) -> Entry:
    profile, size = model.profile, setting.nominal_batch_size
    cut = model.cuts[place] if model.cuts else None
    return {
        "cut": None if cut is None else cut.name,
        "client_forward_flop_per_sample": float(at(profile.client_forward_flop[place], size)) / size,
        "client_backward_flop_per_sample": float(at(profile.client_backward_flop[place], size)) / size,
        "server_forward_flop_per_sample": float(at(profile.server_forward_flop[place], size)) / size,
        "server_backward_flop_per_sample": float(at(profile.server_backward_flop[place], size)) / size,
        "client_turn_flop_per_sample": float(at(profile.turn_flop[place], size)) / size,
        "returned_byte_per_sample": float(at(profile.returned_bit[place], size)) / 8 / size,
        "smashed_byte_per_sample": 0.0 if cut is None else cut.smashed_byte_per_sample,
        "client_parameters": int(profile.client_parameters[place]),
        "client_parameter_byte": int(profile.client_parameter_byte[place]),
        "client_training_memory_byte": float(profile.training_memory_byte(place, size)),
        "client_forward_memory_byte": float(profile.forward_memory_byte(place, size)),
        "batch_size": size,
        "second_cut": None if cut is None or cut.split.back is None else cut.split.back.cut,
        "aliases": [] if cut is None else list(cut.aliases),
        "smashed_shapes": [] if cut is None else [list(shape) for shape in cut.smashed_shapes],
        "crossing": {} if cut is None else {name: kind.value for name, kind in cut.split.crossing.items()},
        "default": cut is model.default,
        "median_step_s": cost.median_step_s,
        "slowest_step_s": cost.slowest_step_s,
        "slowest_client": cost.slowest,
        "round_s": cost.round_s,
        "client_joule_per_round": _number(cost.client_joule),
        "uplink_byte_per_round": cost.uplink_byte,
        "downlink_byte_per_round": cost.downlink_byte,
        "fits_clients": int(cost.fits.sum()),
        "pareto_optimal": cost.is_pareto,
        "clients": {
            "step_s": _numbers(cost.step_s),
            "step_joule": _numbers(cost.step_joule),
            "memory_byte": _numbers(cost.memory_byte),
            "fits": cost.fits.tolist(),
        },
    }


def _peak_flop_per_s(setting: PlanSetting) -> FloatArray:
    fleet, clients = setting.environment.fleet, setting.schedule.num_clients
    peak: FloatArray = (fleet.clock_hz * fleet.flop_per_cycle * fleet.efficiency)[:clients]
    return peak


def _numbers(values: FloatArray) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
