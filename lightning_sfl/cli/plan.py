"""`lightning-sfl plan`: the table of valid cuts with their costs, without training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_sfl.cli.job import configured_optimizer, instantiate
from lightning_sfl.cut.find import Cut, default_cut
from lightning_sfl.report.units import bytes_text, flop_text
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.model.profile import Profile, at

if TYPE_CHECKING:
    from lightning_sfl.cli.app import SplitCLI


def plan(cli: "SplitCLI", json_file: Path | None) -> None:
    """Carry the command out.

    Raises:
        ValueError: The JSON file exists already.
    """
    if json_file is not None and json_file.exists():
        raise ValueError(f"json={str(json_file)!r} exists already; give another file.")
    run = instantiate(cli, {"trainer.logger": False})
    cuts = run.search().cuts()
    optimizer = configured_optimizer(run.model)
    costs = run.profile(cuts, optimizer)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # written to a file or a pipe: nothing is cut short
    console.print(_table(cuts, costs, run.batch_size, counted_state=optimizer is not None))
    if json_file is not None:
        json_file.write_text(json.dumps(_document(cuts, costs, run.batch_size), indent=2) + "\n", encoding="utf-8")


def _table(cuts: list[Cut], costs: Profile, batch_size: int, *, counted_state: bool) -> Table:
    crossing = [", ".join(f"{name} ({kind.value})" for name, kind in cut.split.crossing.items()) or "–" for cut in cuts]
    caption = (
        "* is taken if no cut is named. 1 multiply-accumulate = 2 FLOP; FLOP and smashed data are per sample. Memory is"
        f" a client's, training at a batch of {batch_size}."
    )
    if not counted_state:
        caption += " Optimizer state is not in the memory (the optimizer needs a trainer)."
    headings = ["cut", "smashed", "", "parameters", "forward", "backward", "memory"]
    if same := len(set(crossing)) == 1:
        caption += f" Besides the smashed data there cross: {crossing[0]}."
    else:
        headings.append("crosses besides")
    table = Table(title="Valid cuts, in order of execution", caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("cut", "crosses besides") else "right", no_wrap=True)
    default = default_cut(cuts)
    for place, (cut, beside) in enumerate(zip(cuts, crossing, strict=True)):
        table.add_row(
            cut.name + (" *" if cut is default else ""),
            " + ".join("x".join(map(str, shape)) for shape in cut.smashed_shapes),
            bytes_text(cut.smashed_byte_per_sample),
            f"{cut.client_parameters:,}",
            flop_text(_per_sample(costs.client_forward_flop, place, batch_size)).removesuffix("FLOP"),
            flop_text(_per_sample(costs.client_backward_flop, place, batch_size)).removesuffix("FLOP"),
            bytes_text(float(costs.training_memory_byte(place, batch_size))),
            *([] if same else [beside]),
        )
    return table


def _document(cuts: list[Cut], costs: Profile, batch_size: int) -> list[dict[str, object]]:
    default = default_cut(cuts)
    return [
        {
            "cut": cut.name,
            "client_forward_flop_per_sample": _per_sample(costs.client_forward_flop, place, batch_size),
            "client_backward_flop_per_sample": _per_sample(costs.client_backward_flop, place, batch_size),
            "server_forward_flop_per_sample": _per_sample(costs.server_forward_flop, place, batch_size),
            "server_backward_flop_per_sample": _per_sample(costs.server_backward_flop, place, batch_size),
            "smashed_byte_per_sample": cut.smashed_byte_per_sample,
            "client_parameters": cut.client_parameters,
            "client_parameter_byte": cut.client_parameter_byte,
            "client_training_memory_byte": float(costs.training_memory_byte(place, batch_size)),
            "client_forward_memory_byte": float(costs.forward_memory_byte(place, batch_size)),
            "batch_size": batch_size,
            "aliases": list(cut.aliases),
            "smashed_shapes": [list(shape) for shape in cut.smashed_shapes],
            "crossing": {name: kind.value for name, kind in cut.split.crossing.items()},
            "default": cut is default,
        }
        for place, cut in enumerate(cuts)
    ]


def _per_sample(lines: FloatArray, place: int, batch_size: int) -> float:
    return float(at(lines[place], batch_size)) / batch_size
