"""Finding every valid cut of a module from one step on a copy."""

import copy
import dataclasses
import difflib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sfl.cut.batch import copied_batch, named_tensors, record_count
from lightning_sfl.cut.errors import CutError
from lightning_sfl.cut.split import Split, split_at
from lightning_sfl.cut.verify import autograd_disagreement, injection_disagreement
from lightning_sfl.cut.watch import Watch, watch_modules
from lightning_sfl.cut.weightless import ValueRead, Weightless, has_values, kept_of_graphs
from lightning_sfl.random_state import RandomState

Step = Callable[[nn.Module, Any], Any]
"""Runs one training step of a module on a batch and returns its loss, or a mapping with a ``"loss"``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A valid cut.

    Attributes:
        name: The module that ends the client's half.
        aliases: Other modules that end at the very same tensor.
        smashed_shapes: Shape per sample of every tensor that crosses up.
        smashed_byte_per_sample: Their bytes per sample, as computed (without any codec).
        client_parameters: Number of parameters (scalars) the client holds.
        client_parameter_byte: Their bytes.
        split: Whose is what.
    """

    name: str
    aliases: tuple[str, ...]
    smashed_shapes: tuple[tuple[int, ...], ...]
    smashed_byte_per_sample: float
    client_parameters: int
    client_parameter_byte: int
    split: Split


def find_cuts(
    module: nn.Module, batch: object, *, server_inputs: Sequence[str] = (), step: Step | None = None
) -> list[Cut]:
    """List every valid cut of ``module``, in order of execution.

    One training step is watched on a copy of the module. A cut is valid if all that the server half needs of what the
    client half computed crosses there. Every cut listed was verified twice: autograd reaches the same parameters on
    each side, and the two halves run apart, the server's with blank private inputs, give the very loss of the whole.
    The module, its buffers and the random state are left as they were. A module without values (on the ``meta``
    device) is verified by autograd alone.

    Args:
        module: A LightningModule, or any module with a ``training_step(batch[, batch_idx])``.
        batch: One batch as the module receives it; two or three samples are enough.
        server_inputs: Names of model inputs that may cross to the server (``"input_ids"``; ``"0"`` in a tuple).
        step: How to run one step, where it is not ``module.training_step``.

    Returns:
        The cuts. Modules that end at the same tensor are one cut, named by the outermost.

    Raises:
        ValueError: The batch holds no tensor, or ``server_inputs`` names none of its tensors.
        CutError: The module has no valid cut.
    """
    return search(module, batch, server_inputs=server_inputs, step=step).cuts()


def search(
    module: nn.Module,
    batch: object,
    *,
    server_inputs: Sequence[str] = (),
    step: Step | None = None,
    last: str | None = None,
) -> "Search":
    """Watch one step on a copy of ``module``, to be asked about its cuts afterwards; the first ones, given a last."""
    check_server_inputs(batch, server_inputs)
    record_count(batch)  # raises if the batch holds no tensor
    return Search(module, batch, tuple(server_inputs), step or training_step, last)


def check_server_inputs(batch: object, server_inputs: Sequence[str]) -> None:
    """Raise a ValueError unless every name in ``server_inputs`` is that of a tensor in ``batch``."""
    known = list(named_tensors(batch))
    if unknown := [name for name in server_inputs if name not in known]:
        raise ValueError(
            f"server_inputs={tuple(server_inputs)!r}: {unknown} are not in the batch, which holds {known}."
        )


class Search:
    """One watched step on a copy, and what it says of every cut."""

    def __init__(
        self, module: nn.Module, batch: object, server_inputs: tuple[str, ...], step: Step, last: str | None
    ) -> None:
        self._weightless = None if has_values(module) else Weightless(module)
        self._module = copied_module(module) if self._weightless is None else self._weightless.module
        self._batch = copied_batch(batch)
        self._server_inputs = server_inputs
        self._step = step
        self._last = last
        self._names = [name for name, _ in self._module.named_modules() if name]
        self._found: dict[str, Split | CutError] = {}
        with self._running(), _traceless(self._module):
            own = copied_batch(batch) if self._weightless is None else self._weightless.batch(batch)
            watch = Watch(self._module, own)
            with watch_modules(watch, self._module, self._names, fresh=True), watch:
                self._loss = loss_of(step(self._module, own))
            watch.mark_ends(self._loss, self._module)
        self._flow = watch.flow

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self._weightless is None:
            yield
            return
        try:
            with self._weightless.running():
                yield
        except ValueRead as error:
            raise CutError(
                f"{type(self._module).__name__} holds no values, and its training step looks at some ({error}). Build"
                " it with weights, or without what looks (of an attention mask: attn_implementation='eager')."
            ) from error

    def split(self, name: str) -> Split:
        """The verified split at the module called ``name``.

        Raises:
            CutError: It is not a valid cut; the message says why.
        """
        for known in (name, self._last or name):
            if known not in self._names:
                raise unknown_submodule(self._module, known)
        if name not in self._found:
            try:
                self._found[name] = self._verified(name)
            except CutError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, CutError):
            raise found
        return found

    def cuts(self) -> list[Cut]:
        """Every valid cut, in order of execution.

        Raises:
            CutError: There is none.
        """
        places: dict[tuple[int | None, ...], list[str]] = {}
        refused: list[CutError] = []
        for name in self._in_order():
            try:
                self.split(name)
            except CutError as error:
                refused.append(error)
                continue
            outputs = self._flow.visits[name][-1].outputs
            ends = tuple(None if node is None else self._flow.origin(node) for node in outputs)
            places.setdefault(ends, []).append(name)
        if not places:
            first = f" The first of {len(refused)} tried: {refused[0]}" if refused else ""
            raise CutError(
                f"{type(self._module).__name__} has no valid cut: no submodule is visited once per training step with"
                f" everything that the rest needs passing through its output.{first}"
            )
        return [self._describe(sorted(names, key=lambda name: name.count("."))) for names in places.values()]

    def cut(self, name: str) -> Cut:
        """The valid cut at the module called ``name``.

        Raises:
            CutError: It is not a valid cut; the message says why, and which are.
        """
        try:
            self.split(name)
        except CutError as error:
            raise CutError(f"{error} {valid_cuts_text(self.cuts(), self._last)}") from None
        return self._describe([name])

    def in_order(self, names: Sequence[str]) -> list[str]:
        """These modules in the order in which the step left them; those that it did not visit come last."""
        places = {name: place for place, name in enumerate(self._in_order())}
        return sorted(names, key=lambda name: places.get(name, len(places)))

    def _in_order(self) -> list[str]:
        """The modules that the step visited, in the order in which they were left."""
        visited = [name for name in self._names if self._flow.visits.get(name)]
        return sorted(visited, key=lambda name: self._flow.visits[name][-1].left)

    def _verified(self, name: str) -> Split:
        batch = named_tensors(self._batch)
        split = split_at(self._flow, name, self._module, batch, self._server_inputs, self._last)
        wrong = autograd_disagreement(self._module, split, self._loss, self._flow.gates)
        if wrong is None and self._weightless is None:  # without values there is no loss to compare
            with _traceless(self._module) as again:
                try:
                    wrong = injection_disagreement(
                        self._module,
                        split,
                        self._batch,
                        lambda batch: loss_of(self._step(self._module, batch)),
                        self._loss,
                        again,
                    )
                except Exception as error:  # whatever the user's program raises when it is run in halves
                    wrong = f"its halves do not run apart ({type(error).__name__}: {error})"
        if wrong is not None:
            raise CutError(f"cut={name!r}: this cut could not be verified; {wrong}.")
        return split

    def _describe(self, names: Sequence[str]) -> Cut:
        split = self.split(names[0])
        forms = self._flow.forms[names[0]]
        smashed = [form for place in split.smashed if (form := forms[place]) is not None]
        count = record_count(self._batch)
        client = [self._module.get_parameter(name) for name in split.client_parameters]
        return Cut(
            name=names[0],
            aliases=tuple(names[1:]),
            smashed_shapes=tuple(
                form.shape[1:] if form.shape and form.shape[0] == count else form.shape for form in smashed
            ),
            smashed_byte_per_sample=sum(form.byte for form in smashed) / count,
            client_parameters=sum(parameter.numel() for parameter in client),
            client_parameter_byte=sum(parameter.numel() * parameter.element_size() for parameter in client),
            split=split,
        )


def copied_module(module: nn.Module) -> nn.Module:
    """A deep copy of ``module``. Tensors of a graph that it keeps (activations) come along as values.

    Raises:
        CutError: It cannot be copied.
    """
    kept: dict[int, object] = {id(value): value.detach().clone() for value in kept_of_graphs(module)}
    try:
        return copy.deepcopy(module, kept)
    except Exception as error:
        raise CutError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and the search for cuts runs"
            " on a copy. Name a cut= that you know; the first real step verifies it."
        ) from error


def unknown_submodule(module: nn.Module, cut: str) -> CutError:
    """The error for a cut that names no submodule, with the nearest names."""
    names = [name for name, _ in module.named_modules() if name]
    near = difflib.get_close_matches(cut, names, n=3, cutoff=0.5) or names[:3]
    return CutError(
        f"cut={cut!r}: {type(module).__name__} has no submodule of this name. Did you mean"
        f" {' or '.join(map(repr, near))}? lightning_sfl.find_cuts(module, batch) lists the valid cuts."
    )


def valid_cuts_text(cuts: Sequence[Cut], last: str | None = None, most: int = 20) -> str:
    """The valid cuts (of a U-shape: the valid first ones) as the end of an error message."""
    names = [repr(cut.name) for cut in cuts[:most]]
    rest = f" and {len(cuts) - most} more" + (" (find_cuts lists them)" if last is None else "")
    which = "Valid cuts" if last is None else f"With {last!r} as the last one, valid first cuts"
    return f"{which} are {', '.join(names)}{rest if len(cuts) > most else ''}."


def default_cut(cuts: Sequence[Cut]) -> Cut:
    """The cut taken when the user names none.

    Among the first half of the valid cuts, in order of execution, the one with the least smashed data per sample; of
    several within a tenth of that the deepest, where the least of the input is left to see.
    """
    first_half = cuts[: max(1, len(cuts) // 2)]
    least = min(cut.smashed_byte_per_sample for cut in first_half)
    return next(cut for cut in reversed(first_half) if cut.smashed_byte_per_sample <= 1.1 * least)


def training_step(module: nn.Module, batch: object, batch_idx: int = 0) -> object:
    """Call ``module.training_step`` with the batch and, if it takes one, a batch index.

    Raises:
        ValueError: The module has no ``training_step``.
    """
    method = getattr(module, "training_step", None)
    if not callable(method):
        raise ValueError(
            f"module={type(module).__name__} has no training_step(batch, batch_idx). Give a LightningModule, or say"
            " how to run one step with step=."
        )
    takes_index = "batch_idx" in inspect.signature(method).parameters or len(inspect.signature(method).parameters) > 1
    return method(batch, batch_idx) if takes_index else method(batch)


def loss_of(output: object) -> Tensor:
    """The loss in what a training step returned.

    Raises:
        ValueError: There is none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"The training step returned {type(output).__name__}, which holds no loss tensor: a tensor, or a mapping"
            " with a tensor under 'loss', is accepted."
        )
    return loss


@contextmanager
def _traceless(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Put random state and buffers back at the end; yields a function that does so at once."""
    random_state = RandomState.capture()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def again() -> None:
        random_state.restore()
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])

    with warnings.catch_warnings(), torch.enable_grad():
        # The copy has no Trainer, which a LightningModule warns about at every self.log().
        warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)`")
        try:
            yield again
        finally:
            again()
