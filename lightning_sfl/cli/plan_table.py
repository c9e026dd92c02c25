"""A plan as tables for people to read: one, or where that is too wide one of the model and one of the fleet."""

import dataclasses
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lightning_sfl.allocation import UNENCODED_BIT
from lightning_sfl.cli.plan_fleet import CutCosts
from lightning_sfl.cli.plan_model import PlannedModel
from lightning_sfl.cli.plan_setting import PlanSetting
from lightning_sfl.report.units import bytes_text, flop_text, joule_text, seconds_text
from lightning_sfl.world.cost.rules import rule_of
from lightning_sfl.world.model.profile import at


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Column:
    """A column: what stands above it, and in every row."""

    heading: str
    texts: Sequence[str]
    is_text: bool = False


def print_plan(
    console: Console, model: PlannedModel, costs: Sequence[CutCosts], setting: PlanSetting, *, rounds: int
) -> None:
    """Print the tables, and below them what they say and count."""
    named = _Column(heading="cut", texts=_names(model, costs), is_text=True)
    of_model, of_fleet = _model_columns(model, costs, setting), _fleet_columns(costs)
    title = "Valid cuts, in order of execution" if model.cuts else "The whole model: there is no cut"
    whole = _table(title, [named, *of_model, *of_fleet])
    if Measurement.get(console, console.options.update(max_width=10_000), whole).maximum <= console.width:
        console.print(whole)
    else:
        console.print(_table(f"{title}: the model", [named, *of_model]))
        console.print(_table("The fleet", [named, *of_fleet]))
    for note in _notes(model, costs, setting, rounds):
        console.print(note, highlight=False, markup=False)


def _table(title: str, columns: Sequence[_Column]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify="left" if column.is_text else "right", no_wrap=True)
    for row in zip(*(column.texts for column in columns), strict=True):
        table.add_row(*row)
    return table


def _names(model: PlannedModel, costs: Sequence[CutCosts]) -> list[str]:
    if not model.cuts:
        return list(model.names)
    return [
        cut.name + (" *" if cut is model.default else "") + (" P" if cost.is_pareto else "")
        for cut, cost in zip(model.cuts, costs, strict=True)
    ]


def _model_columns(model: PlannedModel, costs: Sequence[CutCosts], setting: PlanSetting) -> list[_Column]:
    profile, cuts, batch_size = model.profile, model.cuts, setting.nominal_batch_size
    probes = _probes(setting)
    crossing = _crossing(model)
    columns = [
        _Column(
            heading="smashed",
            texts=[" + ".join("x".join(map(str, shape)) for shape in cut.smashed_shapes) for cut in cuts],
        ),
        _Column(heading="", texts=[bytes_text(cut.smashed_byte_per_sample) for cut in cuts]),
        _Column(heading="parameters", texts=[f"{held:,}" for held in profile.client_parameters.tolist()]),
        _Column(
            heading="forward",
            texts=[_flop(float(at(line, batch_size)) / batch_size) for line in profile.client_forward_flop],
        ),
        _Column(
            heading="backward",
            texts=[_flop(float(at(line, batch_size)) / batch_size) for line in profile.client_backward_flop],
        ),
        _Column(
            heading="memory",
            texts=[
                bytes_text(float(cost.memory_byte.max() if probes else profile.training_memory_byte(place, batch_size)))
                for place, cost in enumerate(costs)
            ],
        ),
    ]
    if probes:
        columns = [column for column in columns if column.heading != "backward"]
    if model.second_cut is not None:
        turn = [_flop(float(at(line, batch_size)) / batch_size) for line in profile.turn_flop]
        columns.insert(-1, _Column(heading="second part", texts=turn))
    if len(set(crossing)) > 1:
        columns.append(_Column(heading="crosses besides", texts=crossing, is_text=True))
    return columns if cuts else columns[2:]  # nothing crosses where there is no cut


def _probes(setting: PlanSetting) -> bool:
    """Whether clients run forward only."""
    return rule_of(setting.algorithm).probing is not None


def _fleet_columns(costs: Sequence[CutCosts]) -> list[_Column]:
    columns = [
        _Column(heading="step, median", texts=[seconds_text(cost.median_step_s) for cost in costs]),
        _Column(heading="slowest", texts=[seconds_text(cost.slowest_step_s) for cost in costs]),
        _Column(heading="round", texts=[seconds_text(cost.round_s) for cost in costs]),
        _Column(heading="energy", texts=[joule_text(cost.client_joule) for cost in costs]),
        _Column(heading="up", texts=[bytes_text(cost.uplink_byte) for cost in costs]),
        _Column(heading="down", texts=[bytes_text(cost.downlink_byte) for cost in costs]),
    ]
    if not all(cost.fits.all() for cost in costs):
        fits = [f"{int(cost.fits.sum()):,} of {len(cost.fits):,}" for cost in costs]
        columns.append(_Column(heading="fits", texts=fits))
    return columns


def _notes(model: PlannedModel, costs: Sequence[CutCosts], setting: PlanSetting, rounds: int) -> list[str]:
    """Which cuts are marked, and what the figures count."""
    notes = [_marks_note(costs)] if model.cuts else []
    if model.cuts and not model.ran_apart:
        notes.append("Cuts were found on shapes; the first step of training verifies the one that is taken on values.")
    counts = "" if setting.flop_per_mac == 2 else " Its speeds count a multiply-accumulate as 1 FLOP."
    return [
        *notes,
        _model_note(model, setting),
        f"Environment: {setting.name}, seed {setting.seed}, with a {setting.environment.server.works} server.{counts}",
        _fleet_note(setting, has_cuts=bool(model.cuts)),
        _round_note(model, setting, rounds),
    ]


def _marks_note(costs: Sequence[CutCosts]) -> str:
    note = (
        "* is taken if no cut is named. P: Pareto-optimal in seconds, client joules and bytes of a round and in client"
        " memory."
    )
    if all(cost.fits.all() for cost in costs):
        return note
    return f"{note} 'fits' says how many clients have the memory for a cut; P is only at cuts that fit all of them."


def _model_note(model: PlannedModel, setting: PlanSetting) -> str:
    batch_size, does = setting.nominal_batch_size, "probing" if _probes(setting) else "training"
    per_sample = "FLOP and smashed data are" if model.cuts else "FLOP are"
    note = (
        f"Model: 1 multiply-accumulate = 2 FLOP; {per_sample} per sample. Memory is a client's, {does} at a batch of"
        f" {batch_size}."
    )
    if model.second_cut is not None:
        returned = bytes_text(float(at(model.profile.returned_bit[0], batch_size)) / 8 / batch_size)
        note += (
            f" U-shape: from {model.second_cut!r} on ({returned} per sample down, its gradient up) a client goes on"
            " itself, forward and back: the second part."
        )
    if not model.counted_state:
        note += " Optimizer state is not in the memory, nor in what is sent (the optimizer needs a trainer)."
    crossing = _crossing(model)
    if len(set(crossing)) == 1:
        note += f" Besides the smashed data there cross: {crossing[0]}."
    return note


def _fleet_note(setting: PlanSetting, *, has_cuts: bool) -> str:
    schedule, steps = setting.schedule, setting.steps_per_round
    drawn = schedule.clients_per_round < schedule.num_clients
    taking_part = f", {schedule.clients_per_round:,} of them per round" if drawn else ""
    smaller = "all they have where that is less" if setting.knows_shares else "also where a client may hold fewer"
    note = (
        f"Fleet: {schedule.num_clients:,} clients{taking_part}, {setting.algorithm}, {steps:,}"
        f" {'step' if steps == 1 else 'steps'} per round, batches of {setting.nominal_batch_size} ({smaller})."
    )
    if rule_of(setting.algorithm).hands_on:
        note += " A round is one client's turn."
    return f"{note} All cut at the same place, and cuts stay: re-splitting costs nothing here." if has_cuts else note


def _round_note(model: PlannedModel, setting: PlanSetting, rounds: int) -> str:
    crosses = "smashed data and what crosses besides, cut gradients, and " if model.cuts else ""
    state = "with" if setting.sends_state and model.counted_state else "without"
    weights = f"the weights sent before and after, {state} optimizer state"
    if _probes(setting):
        weights = f"the seeds and scalars of {setting.probes} probes, with those that clients missed"
    quantised = setting.bits is not None and bool((setting.bits < UNENCODED_BIT).any())
    codecs = " What goes through a quantiser at the cut is counted so." if quantised else ""
    if setting.uncounted is not None:
        codecs = f" The codecs ({setting.uncounted}) are not counted."
    return (
        "A step is a client's own computing and sending, of the median client and of the slowest. A round is the mean"
        f" of the first {rounds}, with the participants and the channel drawn for each; energy (of clients), up and"
        f" down are all participants' together. It counts {crosses}{weights}; its seconds count averaging, too.{codecs}"
    )


def _crossing(model: PlannedModel) -> list[str]:
    """What crosses besides the smashed data, at every cut."""
    return [
        ", ".join(f"{name} ({kind.value})" for name, kind in cut.split.crossing.items()) or "–" for cut in model.cuts
    ]


def _flop(value: float) -> str:
    """Without the unit, which the notes name."""
    return flop_text(value).removesuffix("FLOP")
