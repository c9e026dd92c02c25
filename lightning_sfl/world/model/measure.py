"""Measuring a profile: a few steps on tensors without values, all cuts at once."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sfl.cut.batch import copied_batch, named_tensors, record_count, replace_tensors
from lightning_sfl.cut.find import Step, copied_module, training_step
from lightning_sfl.cut.split import Split
from lightning_sfl.cut.weightless import ValueRead, Weightless, has_values
from lightning_sfl.random_state import RandomState
from lightning_sfl.world.arrays import FloatArray
from lightning_sfl.world.model.dry_run import WHOLE, DryRun
from lightning_sfl.world.model.memory import lines_through, stacked, upper_envelope
from lightning_sfl.world.model.profile import Profile
from lightning_sfl.world.model.stepping import Stepping, steppings, steps_together

_SIZES = (2, 3)  # an affine function is known from two batches; programs may treat a single record in another way


def profile_cuts(
    module: nn.Module,
    batch: object,
    splits: Mapping[str, Split],
    optimizer: Optimizer | None = None,
    *,
    step: Step = training_step,
) -> Profile:
    """Measure what every cut costs.

    Steps of two and of three records run on a copy of the module that holds no values, so that its size does not
    matter; a step that looks at values runs on a copy that has them. Module, optimizer and random state stay as they
    are.

    Args:
        module: The module, on any device; ``meta`` will do.
        batch: A batch in the precision that it has on its way into the step; its first record's shape is that of all.
        splits: Whose is what at every cut, by its name; ``{cut.name: cut.split for cut in find_cuts(...)}``.
        optimizer: The module's optimizer, for its state; None counts none.
        step: How to run one step.

    Raises:
        ValueError: The step runs other operations on two records than on three, or looks at values that there are not.
    """
    try:
        runs = _dry_runs(module, batch, splits, step)
    except ValueRead as error:
        if not has_values(module):
            raise ValueError(
                f"{type(module).__name__} holds no values, and its training step looks at some ({error}). Build it with"
                " weights, or without what looks (of an attention mask: attn_implementation='eager')."
            ) from error
        runs = _real_runs(module, batch, splits, step)
    reached = runs[0][0].crossed
    in_order = dict(sorted(splits.items(), key=lambda item: reached[item[0]].reached))
    return _Assembly(module, batch, in_order, optimizer, *runs).profile()


_Runs = tuple[DryRun, DryRun]


def _dry_runs(module: nn.Module, batch: object, splits: Mapping[str, Split], step: Step) -> tuple[_Runs, _Runs]:
    weightless = Weightless(module)

    def run(records: int, *, trains: bool) -> DryRun:
        own = weightless.batch(batch, records)
        with weightless.running():
            return _run(weightless.module, splits, lambda: step(weightless.module, own), trains=trains)

    return _at_sizes(run)


def _real_runs(module: nn.Module, batch: Any, splits: Mapping[str, Split], step: Step) -> tuple[_Runs, _Runs]:
    copied, count = copied_module(module), record_count(batch)

    def run(records: int, *, trains: bool) -> DryRun:
        places = torch.arange(records) % count
        tensors = named_tensors(batch)
        own = {name: t[places.to(t.device)] for name, t in tensors.items() if t.ndim and len(t) == count}
        batch_of = copied_batch(replace_tensors(batch, own))
        return _run(copied, splits, lambda: step(copied, batch_of), trains=trains)

    return _at_sizes(run)


def _run(module: nn.Module, splits: Mapping[str, Split], step: Callable[[], object], *, trains: bool) -> DryRun:
    module.zero_grad(set_to_none=True)
    state = RandomState.capture()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)`")
        try:
            return DryRun(module, splits, step, trains=trains)
        finally:
            state.restore()


def _at_sizes(run: Callable[..., DryRun]) -> tuple[_Runs, _Runs]:
    """Runs with gradients, and runs of forward passes alone."""
    small, large = _SIZES
    found = []
    for trains in (True, False):
        one, other = run(small, trains=trains), run(large, trains=trains)
        if one.time != other.time:  # what a first run keeps for later ones (tables of positions, masks) is there now
            one = run(small, trains=trains)
        if one.time != other.time:
            raise ValueError(
                f"The training step runs {one.time} operations on {small} records and {other.time} on {large}; a"
                " profile needs a program that does not depend on the batch size."
            )
        found.append((one, other))
    return found[0], found[1]


class _Assembly:
    """Puts the profile together."""

    def __init__(
        self,
        module: nn.Module,
        batch: object,
        splits: Mapping[str, Split],
        optimizer: Optimizer | None,
        training: _Runs,
        forward: _Runs,
    ) -> None:
        self._module = module
        self._splits = splits
        self._training = training
        self._forward = forward
        self._steppings = steppings(module, optimizer)
        self._together = steps_together(optimizer)
        self._persistent = set(module.state_dict())
        count = record_count(batch)
        self._batch_byte = {
            name: np.array([0.0, _byte(tensor) / count] if tensor.ndim and len(tensor) == count else [_byte(tensor), 0])
            for name, tensor in named_tensors(batch).items()
        }

    def profile(self) -> Profile:
        """The profile of all cuts, with that of the whole model."""
        held = {name: (split.client_parameters, split.client_buffers) for name, split in self._splits.items()}
        everything = [name for name, _ in self._module.named_parameters()], [n for n, _ in self._module.named_buffers()]
        return self._of(held, self._of({WHOLE: everything}, None))

    def _of(self, held: Mapping[str, tuple[Sequence[str], Sequence[str]]], whole: Profile | None) -> Profile:
        parameters = {cut: [self._module.get_parameter(name) for name in own[0]] for cut, own in held.items()}
        buffers = {cut: {name: self._module.get_buffer(name) for name in own[1]} for cut, own in held.items()}
        trained = {cut: [self._steppings[n] for n in own[0] if n in self._steppings] for cut, own in held.items()}
        persistent = {cut: [b for name, b in own.items() if name in self._persistent] for cut, own in buffers.items()}
        fixed = {cut: sum(map(_byte, parameters[cut])) + sum(map(_byte, buffers[cut].values())) for cut in held}
        forward = {cut: self._flop(cut, DryRun.forward_flop) for cut in held}
        backward = {cut: self._flop(cut, DryRun.backward_flop) for cut in held}
        return Profile(
            cuts=tuple(held),
            client_forward_flop=_lines([forward[cut][0] for cut in held]),
            client_backward_flop=_lines([backward[cut][0] for cut in held]),
            server_forward_flop=_lines([forward[cut][1] for cut in held]),
            server_backward_flop=_lines([backward[cut][1] for cut in held]),
            smashed_element=_filled([self._elements("crossed", cut, "element") for cut in held]),
            smashed_bit=_lines([self._crossed(cut, "bit") for cut in held]),
            cut_gradient_bit=_lines([self._crossed(cut, "gradient_bit") for cut in held]),
            cut_gradient_element=_filled([self._elements("crossed", cut, "gradient_element") for cut in held]),
            turn_flop=_lines([self._turn_flop(cut) for cut in held]),
            returned_element=_filled([self._elements("returned", cut, "element") for cut in held]),
            returned_bit=_lines([self._returned(cut, "bit") for cut in held]),
            returned_gradient_element=_filled([self._elements("returned", cut, "gradient_element") for cut in held]),
            returned_gradient_bit=_lines([self._returned(cut, "gradient_bit") for cut in held]),
            beside_bit=_lines([self._beside_bit(cut) for cut in held]),
            client_parameters=np.array([sum(p.numel() for p in parameters[cut]) for cut in held], dtype=np.int64),
            client_parameter_byte=np.array([sum(map(_byte, parameters[cut])) for cut in held], dtype=np.float64),
            client_buffer_byte=np.array([sum(map(_byte, buffers[cut].values())) for cut in held], dtype=np.float64),
            update_parameters=np.array([sum(p.numel() for p in parameters[c] if p.requires_grad) for c in held]),
            update_bit=np.array(
                [8.0 * (sum(s.gradient_byte for s in trained[c]) + sum(map(_byte, persistent[c]))) for c in held]
            ),
            optimizer_state_bit=np.array([float(sum(s.state_bit for s in trained[cut])) for cut in held]),
            client_training_memory_line=stacked([self._training_line(c, fixed[c], trained[c]) for c in held]),
            client_forward_memory_line=stacked([self._forward_line(cut, fixed[cut]) for cut in held]),
            batch_byte=np.sum(list(self._batch_byte.values()), axis=0),
            whole=whole,
        )

    def _flop(self, cut: str, count: Callable[[DryRun, str], tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
        """Client's and server's FLOPs, as affine functions."""
        one, other = (np.array(count(run, cut)) for run in self._training)
        client, server = lines_through(one, other, *_SIZES)
        return client, server

    def _each(self, ask: Callable[[DryRun], float]) -> FloatArray:
        one, other = (np.array([float(ask(run))]) for run in self._training)
        line: FloatArray = lines_through(one, other, *_SIZES)[0]
        return line

    def _turn_flop(self, cut: str) -> FloatArray:
        return self._each(lambda run: run.turn_flop(cut))

    def _crossed(self, cut: str, what: str) -> FloatArray:
        return self._each(lambda run: getattr(run.crossed[cut], what))

    def _returned(self, cut: str, what: str) -> FloatArray:
        return self._each(lambda run: getattr(run.returned.get(cut), what, 0))

    def _elements(self, way: str, cut: str, what: str) -> FloatArray:
        """The elements of every tensor that crosses on the way up or is returned, (T, 2)."""
        counts = [getattr(getattr(run, way).get(cut), what, ()) for run in self._training]
        one, other = (np.array(each, dtype=np.float64) for each in counts)
        return lines_through(one, other, *_SIZES)

    def _beside_bit(self, cut: str) -> FloatArray:
        crossing = self._splits[cut].crossing if cut in self._splits else {}
        total: FloatArray = np.sum([8 * self._batch_byte[name] for name in crossing], axis=0) + np.zeros(2)
        return total

    def _training_line(self, cut: str, fixed_byte: float, trained: Sequence[Stepping]) -> FloatArray:
        one, other = (run.training_live_byte(cut) for run in self._training)
        passes = lines_through(one, other, *_SIZES)
        transient = [stepping.transient_byte for stepping in trained]
        taken = sum(transient) if self._together else max(transient, default=0.0)
        step = np.array([[sum(stepping.gradient_byte for stepping in trained) + taken, 0.0]])
        held = fixed_byte + sum(stepping.state_byte for stepping in trained)
        return upper_envelope(np.concatenate([passes, step]) + self._with_batch(held))

    def _forward_line(self, cut: str, fixed_byte: float) -> FloatArray:
        one, other = (run.forward_live_byte(cut) for run in self._forward)
        return upper_envelope(lines_through(one, other, *_SIZES) + self._with_batch(fixed_byte))

    def _with_batch(self, held_byte: float) -> FloatArray:
        total: FloatArray = np.sum(list(self._batch_byte.values()), axis=0) + np.array([held_byte, 0.0])
        return total


def _lines(rows: list[FloatArray]) -> FloatArray:
    """Affine functions, (C, 2), of no cuts as well."""
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _filled(rows: list[FloatArray]) -> FloatArray:
    """Affine functions of different numbers of tensors as one array, (C, T, 2); zeros fill up."""
    most = max((len(lines) for lines in rows), default=0)
    filled = [np.pad(lines, ((0, most - len(lines)), (0, 0))) for lines in rows]
    return np.array(filled, dtype=np.float64).reshape(len(rows), most, 2)


def _byte(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
