"""From what is seen to the problem that HASFL and its baselines solve, and back to a decision."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_sfl.policies.bound import Bound
from lightning_sfl.policies.decision import Decision, InfeasibleError
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.solvers.time_to_target import Choice, TimeToTarget
from lightning_sfl.policies.stages import EndStages, StageLines, Stages, end_stages, largest_batches, stage_lines
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray
from lightning_sfl.world.world import Ends

DEFAULT_MOST_BATCH = 64
_VARIANCE_FACTOR = 5.0
_LEAST_FACTOR = 1.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReachesTarget:
    """What policies that go by the bound have in common.

    Args:
        target: ε, the mean squared gradient norm to be reached; None: that of :func:`default_target`.
        most_batch: The largest batch.
    """

    target: float | None = None
    most_batch: int = DEFAULT_MOST_BATCH

    def __post_init__(self) -> None:
        check_most_batch(type(self).__name__, self.most_batch)
        if self.target is not None and not 0 < self.target < np.inf:
            raise ValueError(
                f"{type(self).__name__}(target={self.target!r}) is not accepted: give a number above 0, or None."
            )


def check_most_batch(owner: str, most_batch: int) -> None:
    """Raise a ValueError unless a batch of 1 is allowed."""
    if isinstance(most_batch, bool) or not isinstance(most_batch, int) or most_batch < 1:
        raise ValueError(f"{owner}(most_batch={most_batch!r}) is not accepted: give an integer of at least 1.")


def bound_at(seen: Observation, target: float) -> Bound:
    """The bound of what is seen, for a target."""
    return Bound(
        statistics=seen.statistics,
        learning_rate=seen.learning_rate,
        interval=seen.world.aggregate_every,
        clients=len(seen.clients),
        target=target,
    )


def default_target(problem: TimeToTarget, mean_inverse_batch: float) -> float:
    """ε where none is given, a choice of ours: the drift that cannot be avoided, and 5 times what variance comes to.

    The drift is that of the choice that comes nearest to any target, with the largest batches. The variance is that of
    batches of which the mean of 1/b is given. So it is a fifth of what is to be decided about, however much larger the
    drift is: a target far above both would leave batches of 1 to everybody, whose devices may have time for more. Where
    that cannot be reached, since such batches cannot be held, ε is a quarter above the least that can.
    """
    found, clients = problem.nearest(), len(problem.most)
    drift = float(problem.drift[problem.deepest(found.cut)])
    usual = drift + _VARIANCE_FACTOR * problem.variance_factor * clients * mean_inverse_batch
    least = problem.target - float(problem.slack(found.cut, found.batch_size))
    return usual if usual > least else _LEAST_FACTOR * least


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Posed:
    """A problem with the target that it was posed for.

    Attributes:
        problem: The problem.
        memory: What is to be seen again.
    """

    problem: TimeToTarget
    memory: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def posed(seen: Observation, target: float | None, most_batch: int) -> Posed:
    """The problem for a target; for None, for the default one of the gradients as they are now.

    The batches that it goes by are those that there were at the first decision.
    """
    if target is not None:
        return Posed(problem=time_to_target(seen, target, most_batch))
    problem = time_to_target(seen, 1.0, most_batch)
    at_first = float((1.0 / np.minimum(seen.batch_size, seen.samples)).mean())
    mean_inverse = float(seen.memory.get("mean_inverse_batch", at_first))
    problem = dataclasses.replace(problem, target=default_target(problem, mean_inverse))
    return Posed(problem=problem, memory={"mean_inverse_batch": mean_inverse})


def time_to_target(seen: Observation, target: float, most_batch: int) -> TimeToTarget:
    """The problem of what is seen.

    Raises:
        ValueError: The algorithm is none that the bound and its times are of.
        InfeasibleError: A client has the memory, or a channel, for one sample at no cut.
    """
    _check_algorithm(seen)
    lines, ends = stage_lines(seen), end_stages(seen)
    most = largest_batches(seen, most_batch)
    finite = _finite(lines, ends)
    reached = (finite & (most > 0)).any(axis=1)
    if not reached.all():
        first = int(reached.argmin())
        raise InfeasibleError(
            f"The channel of client {seen.clients[first]} carries nothing: at no cut does a step end."
        )
    bound = bound_at(seen, target)
    return TimeToTarget(
        lines=StageLines(fixed=_kept(lines.fixed, finite), per_sample=_kept(lines.per_sample, finite)),
        ends=dataclasses.replace(
            ends,
            broadcast_s=np.where(finite, ends.broadcast_s, 0.0),
            upload_s=np.where(finite, ends.upload_s, 0.0),
        ),
        interval=seen.world.aggregate_every,
        serial=seen.world.server.works == "serial",
        least=np.ones_like(most),
        most=np.where(finite, most, 0),
        variance_factor=bound.variance_factor,
        drift=bound.drift,
        target=target,
        steps_factor=2.0 * seen.statistics.loss_gap / seen.learning_rate,
        floor=seen.deepest_of_others,
    )


def ends_of(seen: Observation, cut: IntArray) -> Ends:
    """What the ends of a round with these cuts depend on besides."""
    return Ends(optimizer_state=seen.sends_state, deepest=max(int(cut.max()), seen.deepest_of_others))


def whole_step_s(seen: Observation, choice: Choice) -> float:
    """T_S + T_A / I, as the world says."""
    who = seen.participation(choice.cut, choice.batch_size)
    return seen.world.round(who, ends_of(seen, choice.cut), round=seen.round).total_s / seen.world.aggregate_every


def decision(seen: Observation, posed: Posed, choice: Choice, *, reason: str, sweeps: int | None = None) -> Decision:
    """The decision for a choice, with what is expected of it: by the bound in steps, and in seconds by the world."""
    problem = posed.problem
    step_s = whole_step_s(seen, choice)
    slack = float(problem.slack(choice.cut, choice.batch_size))
    steps = problem.steps_factor / slack if slack > 0 else math.inf
    figures = {"target": problem.target, "expected_steps": steps, "step_s": step_s, "expected_s": steps * step_s}
    return Decision(
        allocation=seen.allocation(cut=choice.cut, batch_size=choice.batch_size),
        reason=f"{_changed(seen, choice)}{reason}",
        figures=figures if sweeps is None else {**figures, "sweeps": float(sweeps)},
        memory=posed.memory,
    )


def _changed(seen: Observation, choice: Choice) -> str:
    """Whose cut and batch are others than before, and what they are now."""
    cuts, clients = seen.world.profile.cuts, len(seen.clients)
    moved = int((choice.cut != seen.cut).sum())
    resized = int((choice.batch_size != np.minimum(seen.batch_size, seen.samples)).sum())
    first, last, sizes = int(choice.cut.min()), int(choice.cut.max()), choice.batch_size
    where = cuts[first] if first == last else f"{cuts[first]} to {cuts[last]}"
    size = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    return f"{moved} of {clients} cuts move (now {where}), {resized} batch sizes change (now {size}): "


def nearest(seen: Observation, problem: TimeToTarget) -> Choice:
    """The choice that comes nearest to the target.

    Raises:
        InfeasibleError: Not even that one reaches it; the term that binds is named.
    """
    found = problem.nearest()
    if _reaches(problem, found):
        return found
    share = problem.variance_factor / found.batch_size
    worst = int(share.argmax())
    variance, deepest = float(share.sum()), int(problem.deepest(found.cut))
    drift = float(problem.drift[deepest])
    if variance >= drift:
        binds = (
            f"The gradients' variance is {variance:g} with the largest batches, of which client"
            f" {seen.clients[worst]} adds most: batch_size={found.batch_size[worst]} is all that it can hold"
        )
    else:
        binds = f"The drift between averages is {drift:g} at the cut {seen.world.profile.cuts[deepest]!r}"
    raise InfeasibleError(
        f"target={problem.target:g} is out of reach of every cut and batch size: variance and drift come to"
        f" {variance + drift:g}. {binds}."
    )


def _reaches(problem: TimeToTarget, choice: Choice) -> bool:
    return bool(problem.slack(choice.cut, choice.batch_size) > 0)


def _check_algorithm(seen: Observation) -> None:
    rule = seen.world.rule
    if rule.one_by_one or not rule.uses_cut or rule.probing is not None:
        raise ValueError(
            f"algorithm={rule.name!r} is not accepted here: the bound and its times are those of clients that work at"
            " once, have a cut and propagate back. Accepted are 'splitfed_shared' and 'splitfed_v1'."
        )
    if (seen.world.profile.returned_bit > 0).any():
        raise ValueError(f"A U-shape (cut {seen.world.profile.cuts[0]!r}) is not accepted here: give single cuts.")


def _finite(lines: StageLines, ends: EndStages) -> BoolArray:
    tables: list[FloatArray] = [ends.broadcast_s, ends.upload_s]
    for stages in (lines.fixed, lines.per_sample):
        tables += [stages.up_s, stages.server_s, stages.back_s]
    return np.asarray(np.isfinite(tables).all(axis=0))


def _kept(stages: Stages, finite: BoolArray) -> Stages:
    """The tables with zeros where a cut cannot be chosen."""
    return Stages(
        up_s=np.where(finite, stages.up_s, 0.0),
        server_s=np.where(finite, stages.server_s, 0.0),
        back_s=np.where(finite, stages.back_s, 0.0),
    )
