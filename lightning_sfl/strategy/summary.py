"""Lightning's model summary once more, with a column that says whose each row is.

Lightning prints its table before a batch was seen; whose is what shows in the first step.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from lightning.pytorch.utilities.model_summary import summarize
from torch import Tensor, nn

from lightning_sfl.cut.split import Split
from lightning_sfl.random_state import RandomState
from lightning_sfl.strategy.rounds import Rounds

Columns = list[tuple[str, list[str]]]
"""Headings, and the cells below them."""


class Owner(StrEnum):
    """Whose a row is."""

    NOBODY = ""
    CLIENT = "client"
    SERVER = "server"
    BOTH = "client and server"
    BY_CUT = "client, for some on the server"
    """Behind the cuts of some clients and before those of others: a client's own, on whichever side it is computed."""


def print_owners(trainer: pl.Trainer, rounds: Rounds) -> None:
    """Print the table of every model summary the trainer has with the owners, to its own depth, in its own style."""
    module = trainer.lightning_module
    splits = [rounds.known.splits[cut] for cut in rounds.cuts.names]
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, ModelSummary) and callback._max_depth != 0:
            with _without_trace(module):
                table = summarize(module, max_depth=callback._max_depth)
            columns: Columns = table._get_summary_data()
            names = dict(columns)["Name"]
            _put_before("Mode", columns, ("Owner", [str(owner) for owner in owners(module, names, splits)]))
            if type(callback).summarize is RichModelSummary.summarize:
                _print_rich(columns, **callback._summarize_kwargs)
                continue
            callback.summarize(
                columns,
                table.total_parameters,
                table.trainable_parameters,
                table.model_size,
                table.total_training_modes,
                total_flops=table.total_flops,
                **callback._summarize_kwargs,
            )


def owners(module: nn.Module, rows: Sequence[str], splits: Sequence[Split]) -> list[Owner]:
    """Whose the rows of a summary are.

    Args:
        module: The module.
        rows: Names of submodules; another name stands for the parameters that are in none of the others.
        splits: Whose is what at every cut in use; none where clients hold the whole module.
    """
    held = [
        ({*split.client_parameters, *split.client_buffers}, {*split.server_parameters, *split.server_buffers})
        for split in splits
    ]
    by_tensor: dict[Tensor, Owner] = {}
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        by_tensor[tensor] = _owner([_holders(name, *names) for names in held])
    submodules = dict(module.named_modules(remove_duplicate=False))
    listed = {tensor for row in rows if row in submodules for tensor in submodules[row].parameters()}
    found: list[Owner] = []
    for row in rows:
        if row in submodules:
            tensors = [*submodules[row].parameters(), *submodules[row].buffers()]
        else:
            tensors = [parameter for parameter in module.parameters() if parameter not in listed]
        if tensors:
            found.append(_together({by_tensor[tensor] for tensor in tensors}))
        else:
            found.append(_owner([{Owner.CLIENT} if _runs_before(row, split) else set() for split in splits]))
    return found


def _holders(name: str, clients: set[str], servers: set[str]) -> set[Owner]:
    return {owner for owner, names in ((Owner.CLIENT, clients), (Owner.SERVER, servers)) if name in names}


def _owner(at_cuts: Sequence[set[Owner]]) -> Owner:
    """Whose something is of which is known who holds it at each cut; without a cut it is the clients'."""
    if not at_cuts:
        return Owner.CLIENT
    if any(holders != at_cuts[0] for holders in at_cuts):
        return Owner.BY_CUT
    return _together(at_cuts[0])


def _together(kinds: set[Owner]) -> Owner:
    """Whose something is that holds all of these."""
    if len(kinds) <= 1:
        return next(iter(kinds), Owner.NOBODY)
    return Owner.BY_CUT if kinds == {Owner.CLIENT, Owner.BY_CUT} else Owner.BOTH


def _runs_before(name: str, split: Split) -> bool:
    """Whether a module without parameters or buffers is known to run on the client."""
    return any(name == whole or name.startswith(whole + ".") for whole in (split.cut, *split.stubs))


@contextmanager
def _without_trace(module: pl.LightningModule) -> Iterator[None]:
    """Put back what a forward pass of the `example_input_array` changes; Lightning warned when it ran it first."""
    state = RandomState.capture()
    buffers = {} if module.example_input_array is None else dict(module.named_buffers())
    before = {name: buffer.detach().clone() for name, buffer in buffers.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, buffer in before.items():
            module.get_buffer(name).data = buffer
        state.restore()


def _put_before(heading: str, columns: Columns, column: tuple[str, list[str]]) -> None:
    columns.insert([name for name, _ in columns].index(heading), column)


def _print_rich(columns: Columns, header_style: str = "bold magenta") -> None:
    """The table in the style of Lightning's rich summary, which gives a column it does not know no heading."""
    from rich import get_console
    from rich.table import Table

    table = Table(header_style=header_style)
    for heading, _ in columns:
        is_text = heading in (" ", "Name", "Type", "Owner", "Mode")
        table.add_column(
            heading,
            style="dim" if heading == " " else None,
            justify="left" if is_text else "right",
            no_wrap=heading == "Name",
        )
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    get_console().print(table)
