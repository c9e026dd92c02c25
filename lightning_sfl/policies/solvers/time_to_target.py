"""How long it takes until the bound reaches its target, as a function of cuts and batch sizes: what HASFL minimises.

    Θ(b, cuts) = R · (T_S + T_A / I),    R = 2ϑ / (γ (ε - V(b) - D(L)))

with a step's time T_S = max(up) + server + max(back), the server's part a sum over the clients or their maximum, a
round's ends T_A = max(broadcasts, line between servers) + max(uploads, the same line) + averaging, and L the deepest
cut (HASFL, arXiv 2506.08426, a reconstruction). It is a ratio of a time and the bound's slack ε - V - D.
"""

import dataclasses

import numpy as np

from lightning_sfl.policies.stages import EndStages, StageLines, Stages
from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Cuts and batch sizes, (K,) each, and the seconds that it takes with them until the target is reached."""

    cut: IntArray
    batch_size: IntArray
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TimeToTarget:
    """The objective, and what may be chosen, for K clients and C cuts.

    Attributes:
        lines: What a step takes at every cut as functions of the batch size.
        ends: What a round's beginning and end take.
        interval: I, steps between two aggregations.
        serial: Whether the server serves one client after the other.
        least: The smallest batch that may be chosen at every cut, (K, C).
        most: The largest one, (K, C); less than the smallest where a cut may not be chosen.
        variance_factor: What every 1/b_i adds to the variance V.
        drift: D, if a cut is the deepest, (C,).
        target: ε.
        steps_factor: 2ϑ/γ: how many steps it takes at a slack of 1.
        floor: The deepest cut is never less than this one, which somebody has who takes no part.
    """

    lines: StageLines
    ends: EndStages
    interval: int
    serial: bool
    least: IntArray
    most: IntArray
    variance_factor: float
    drift: FloatArray
    target: float
    steps_factor: float
    floor: int = 0

    @property
    def allowed(self) -> BoolArray:
        """Which cuts each client may choose, (K, C)."""
        return self.most >= self.least

    def accepts(self, cut: IntArray, batch_size: IntArray) -> BoolArray:
        """Whether all clients may choose this, (...) for choices (..., K)."""
        who = np.arange(len(self.most))
        inside = (batch_size >= self.least[who, cut]) & (batch_size <= self.most[who, cut])
        return np.asarray(inside.all(axis=-1))

    def deepest(self, cut: IntArray) -> IntArray:
        """L, (...) for cuts (..., K)."""
        return np.asarray(np.maximum(cut.max(axis=-1), self.floor))

    def slack(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """ε - V(b) - D(L), (...) for choices (..., K)."""
        variance = self.variance_factor * (1.0 / batch_size).sum(axis=-1)
        return np.asarray(self.target - variance - self.drift[self.deepest(cut)])

    def step_s(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """T_S + T_A / I: what a step takes with its part of a round's ends, (...) for choices (..., K)."""
        who = np.arange(cut.shape[-1])

        def stage(name: str) -> FloatArray:
            fixed, per_sample = getattr(self.lines.fixed, name), getattr(self.lines.per_sample, name)
            return np.asarray(fixed[who, cut] + per_sample[who, cut] * batch_size)

        server = stage("server_s")
        served_s = server.sum(axis=-1) if self.serial else server.max(axis=-1)
        deepest = self.deepest(cut)
        line_s = self.line_s(deepest, cut.shape[-1]) - self.ends.own_s[cut].sum(axis=-1)
        sent_s = np.maximum(self.ends.broadcast_s[who, cut].max(axis=-1), line_s)
        given_s = np.maximum(self.ends.upload_s[who, cut].max(axis=-1), line_s)
        ends_s = sent_s + given_s + self.ends.aggregation_s[deepest]
        return np.asarray(stage("up_s").max(axis=-1) + served_s + stage("back_s").max(axis=-1) + ends_s / self.interval)

    def line_s(self, deepest: IntArray, clients: int) -> FloatArray:
        """What the line between the servers would take if no client had any layer of its own, (...)."""
        if self.ends.whole_s is not None:
            return np.full(np.shape(deepest), self.ends.whole_s * clients)
        return np.asarray(self.ends.own_s[deepest] * clients)

    def seconds(self, cut: IntArray, batch_size: IntArray) -> FloatArray:
        """Θ, (...) for choices (..., K), allowed or not; infinite where the target is out of reach."""
        slack = self.slack(cut, batch_size)
        with np.errstate(divide="ignore"):
            steps = self.steps_factor / np.maximum(slack, 0.0)
        return steps * self.step_s(cut, batch_size)

    def choice(self, cut: IntArray, batch_size: IntArray) -> Choice:
        """These cuts and batches, (K,) each, with what they take."""
        return Choice(cut=cut, batch_size=batch_size, seconds=float(self.seconds(cut, batch_size)))

    def nearest(self) -> Choice:
        """The choice with the largest slack: if it does not reach the target, nothing does."""
        choices = []
        cuts = np.arange(self.most.shape[1])
        for last in cuts:
            usable = np.where(self.allowed & (cuts <= last), self.most, 0)
            if (usable > 0).any(axis=1).all():
                # Of equal batches the deepest cut, so that the first choice with this cut does have it as its deepest.
                cut = usable.shape[1] - 1 - usable[:, ::-1].argmax(axis=1)
                choices.append((cut, usable.max(axis=1)))
        return self.choice(*max(choices, key=lambda choice: float(self.slack(*choice))))

    def with_batches(self, batch_size: IntArray) -> "TimeToTarget":
        """The same with fixed batches, (K,): cuts alone are chosen, of those where they may be."""
        chosen = np.broadcast_to(batch_size[:, None], self.most.shape)
        fits = (chosen >= self.least) & (chosen <= self.most)
        return dataclasses.replace(self, least=chosen, most=np.where(fits, chosen, 0))

    def with_cuts(self, cut: IntArray) -> "TimeToTarget":
        """The same with fixed cuts, (K,), as a problem of a single cut: batches alone are chosen."""
        who, deepest = np.arange(len(cut)), int(self.deepest(cut))
        line_s = float(self.line_s(np.array(deepest), len(cut))) - float(self.ends.own_s[cut].sum())

        def of(table: FloatArray) -> FloatArray:
            return np.asarray(table[who, cut][:, None])

        def stages_of(stages: Stages) -> Stages:
            return Stages(up_s=of(stages.up_s), server_s=of(stages.server_s), back_s=of(stages.back_s))

        return dataclasses.replace(
            self,
            lines=StageLines(fixed=stages_of(self.lines.fixed), per_sample=stages_of(self.lines.per_sample)),
            ends=EndStages(
                broadcast_s=of(self.ends.broadcast_s),
                upload_s=of(self.ends.upload_s),
                own_s=np.zeros(1),
                whole_s=line_s / len(cut),
                aggregation_s=self.ends.aggregation_s[[deepest]],
            ),
            least=self.least[who, cut][:, None],
            most=self.most[who, cut][:, None],
            drift=self.drift[[deepest]],
            floor=0,
        )

    def by_time_alone(self) -> "TimeToTarget":
        """The same where every step brings as much as any other: the shortest step is the best choice."""
        return dataclasses.replace(
            self, variance_factor=0.0, drift=np.zeros_like(self.drift), target=1.0, steps_factor=1.0
        )
