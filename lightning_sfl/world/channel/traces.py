"""Recorded links: how many bits got across by when, again and again, and a channel of such recordings."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from lightning_sfl.random import uniforms
from lightning_sfl.world.arrays import FloatArray, read_only
from lightning_sfl.world.channel.channel import Transmission, refuse_allocation
from lightning_sfl.world.channel.rates import RateChannel
from lightning_sfl.world.checks import check_clients


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CapacityTrace:
    """The bits that a link carries by an instant: a line through points, which is repeated when it ends.

    Args:
        time_s: Instants, from 0 on, each after the one before; the last one is the length of the trace.
        bit: The bits carried by then, from 0 on, never falling, above 0 in the end.
        name: What it was read from, for messages.
    """

    time_s: FloatArray
    bit: FloatArray
    name: str = "CapacityTrace"

    def __post_init__(self) -> None:
        for field in ("time_s", "bit"):
            object.__setattr__(self, field, read_only(getattr(self, field)))
        if self.time_s.ndim != 1 or self.time_s.shape != self.bit.shape or len(self.time_s) < 2:
            raise ValueError(
                f"{self.name}: time_s of shape {self.time_s.shape} and bit of shape {self.bit.shape} are not accepted:"
                " give two or more instants, and one number of bits for each."
            )
        for field, falls in (("time_s", np.diff(self.time_s) <= 0.0), ("bit", np.diff(self.bit) < 0.0)):
            values = getattr(self, field)
            if values[0] != 0.0 or not np.isfinite(values).all():
                raise ValueError(f"{self.name}: {field} starts at {values[0]:g}; give finite numbers from 0 on.")
            if falls.any():
                entry = int(np.argmax(falls))
                raise ValueError(
                    f"{self.name}: {field}[{entry + 1}]={values[entry + 1]:.10g} follows {values[entry]:.10g}; time"
                    " must go forwards, and bits must not be taken back."
                )
        if self.bit[-1] == 0.0:
            raise ValueError(f"{self.name} never delivers a bit; a transmission over it would not end.")

    @classmethod
    def of_rates(cls, time_s: FloatArray, bit_per_s: FloatArray, name: str = "CapacityTrace") -> Self:
        """The trace of rates, each of which holds from one instant to the next: one instant more than rates."""
        times = np.asarray(time_s, dtype=np.float64)
        carried = np.asarray(bit_per_s, dtype=np.float64) * np.diff(times)
        return cls(time_s=times - times[0], bit=np.concatenate(([0.0], np.cumsum(carried))), name=name)

    @property
    def period_s(self) -> float:
        """After how long the trace is repeated."""
        return float(self.time_s[-1])

    @property
    def mean_bit_per_s(self) -> float:
        """The mean rate."""
        return float(self.bit[-1] / self.time_s[-1])

    def carried_bit(self, start_s: FloatArray, seconds: FloatArray) -> FloatArray:
        """The bits that get across from each instant on within some seconds; both may be any number of periods."""
        phase = np.mod(start_s, self.period_s)
        periods, rest = np.divmod(phase + seconds, self.period_s)
        carried: FloatArray = periods * self.bit[-1] + (self._by(rest) - self._by(phase))
        return carried

    def seconds(self, bit: FloatArray, start_s: FloatArray) -> FloatArray:
        """The seconds until bits have got across that are sent from each instant on: the inverse, in closed form.

        With C(t) the bits carried by t, it is the smallest s for which C(start + s) - C(start) reaches ``bit``.
        """
        phase = np.mod(start_s, self.period_s)
        target = self._by(phase) + bit
        # The last period counts as begun only where something is left for it: rest lies in (0, bits of a period].
        periods = np.maximum(np.ceil(target / self.bit[-1]) - 1.0, 0.0)
        rest = np.clip(target - periods * self.bit[-1], 0.0, self.bit[-1])
        after = np.clip(np.searchsorted(self.bit, rest, side="left"), 1, len(self.bit) - 1)
        low, high = self.bit[after - 1], self.bit[after]
        share = np.where(rest > low, (rest - low) / np.where(high > low, high - low, 1.0), 0.0)
        begin = self.time_s[after - 1]
        reached = periods * self.period_s + (begin + share * (self.time_s[after] - begin))
        return np.where(bit > 0.0, np.maximum(reached - phase, 0.0), 0.0)

    def _by(self, phase: FloatArray) -> FloatArray:
        return np.interp(phase, self.time_s, self.bit)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TraceChannel:
    """A channel of recorded links: client i has the i-th trace of each direction, counted round and round.

    The rate that is seen at an instant is the mean of the second before it. It is 0 in an outage.

    Args:
        uplink: Traces of links towards the server.
        downlink: Traces of links from the server.
        offset_s: Where in its traces each client is at the run's start, one entry per registered client.
    """

    uplink: Sequence[CapacityTrace]
    downlink: Sequence[CapacityTrace]
    offset_s: FloatArray

    def __post_init__(self) -> None:
        for field in ("uplink", "downlink"):
            if len(getattr(self, field)) == 0:
                raise ValueError(f"TraceChannel({field}=...) is empty; give one trace or more.")
        offsets = read_only(self.offset_s)
        if offsets.ndim != 1 or len(offsets) == 0 or not np.all((offsets >= 0.0) & np.isfinite(offsets)):
            raise ValueError(
                f"TraceChannel(offset_s={self.offset_s!r}) is not accepted: give seconds of at least 0, one per client."
            )
        object.__setattr__(self, "offset_s", offsets)

    @classmethod
    def one_each(cls, uplink: Sequence[CapacityTrace], downlink: Sequence[CapacityTrace]) -> Self:
        """The channel of clients that each have a trace of their own per direction, from its beginning on."""
        if len(uplink) != len(downlink):
            raise ValueError(
                f"TraceChannel.one_each got {len(uplink)} uplink and {len(downlink)} downlink traces; give one of each"
                " per client."
            )
        return cls(uplink=uplink, downlink=downlink, offset_s=np.zeros(len(uplink)))

    @classmethod
    def dealt(
        cls, uplink: Sequence[CapacityTrace], downlink: Sequence[CapacityTrace], num_clients: int, seed: int
    ) -> Self:
        """Deal few traces out to many clients, each of whom starts at a drawn instant of its uplink trace.

        Its downlink trace starts at the same instant, so that recordings of one drive stay together.
        """
        if not uplink:
            raise ValueError("TraceChannel(uplink=...) is empty; give one trace or more.")
        periods = np.array([trace.period_s for trace in uplink])[np.arange(num_clients) % len(uplink)]
        return cls(uplink=uplink, downlink=downlink, offset_s=uniforms(num_clients, seed, "trace offset") * periods)

    @property
    def varies_within_round(self) -> bool:
        """See :meth:`Channel.varies_within_round`."""
        return True

    def uplink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_s`."""
        return self._each(self.uplink, sent, lambda trace, here, at: trace.seconds(bit[here], at))

    def downlink_s(self, bit: FloatArray, sent: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_s`."""
        return self._each(self.downlink, sent, lambda trace, here, at: trace.seconds(bit[here], at))

    def uplink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.uplink_bit_per_s`."""
        return self._each(self.uplink, seen, _mean_of_last_second)

    def downlink_bit_per_s(self, seen: Transmission) -> FloatArray:
        """See :meth:`Channel.downlink_bit_per_s`."""
        return self._each(self.downlink, seen, _mean_of_last_second)

    def on_average(self) -> RateChannel:
        """See :meth:`Channel.on_average`: the mean rates of whole traces."""
        clients = range(len(self.offset_s))
        up, down = (
            np.array([traces[client % len(traces)].mean_bit_per_s for client in clients])
            for traces in (self.uplink, self.downlink)
        )
        return RateChannel(mean_uplink_bit_per_s=up, mean_downlink_bit_per_s=down)

    def check(self, num_clients: int) -> None:
        """See :meth:`Channel.check`."""
        check_clients("TraceChannel", len(self.offset_s), num_clients)

    def _each(
        self,
        traces: Sequence[CapacityTrace],
        sent: Transmission,
        ask: Callable[[CapacityTrace, "np.ndarray[tuple[int], np.dtype[np.intp]]", FloatArray], FloatArray],
    ) -> FloatArray:
        """Ask every trace about all of its clients at once."""
        refuse_allocation("TraceChannel", sent)
        at = sent.start_s + self.offset_s[sent.clients]
        held = sent.clients % len(traces)
        answer = np.empty(len(sent.clients))
        for index in np.unique(held):
            here = np.flatnonzero(held == index)
            answer[here] = ask(traces[index], here, at[here])
        return answer


def _mean_of_last_second(trace: CapacityTrace, here: object, at: FloatArray) -> FloatArray:
    """What a device could have measured; the instant's own rate is all or nothing where packets are counted."""
    return trace.carried_bit(np.mod(at - 1.0, trace.period_s), np.ones(len(at)))
