"""What it costs clients to send their bits in time: the problem that power and subchannels are solved for.

In a round all wait for the slowest several times: for smashed data in every step, for uploads at the end. In stage p
client i is busy with other things for a_pi seconds and sends d_pi bits. It has the bandwidth B_i and an air time of s_i
seconds per bit, for which it needs the power P_i (Shannon's rate turned around; Wei & Chen 2026, energy model). Then

    cost = Σ_p price_p · max_i(a_pi + d_pi s_i) + joule_price · Σ_i D_i s_i P_i,
    P_i = (B_i N0/|h_i|²) (2^(1/(B_i s_i)) - 1) ≤ most_watt_i.

A client's energy only falls when it sends more slowly, so given the stages' deadlines each sends as slowly as it may.
In the logarithms of deadlines, air times and bandwidths the cost is a sum of exponentials of affine functions and of
maxima of them, so it is convex: energy is D_i ln2·N0/|h_i|² · (1 + u/2! + u²/3! + …) with u = ln2/(B_i s_i).
"""

import dataclasses
import functools
import math

import numpy as np

from lightning_sfl.world.arrays import BoolArray, FloatArray, IntArray

_LN2 = math.log(2.0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Energy:
    """What sending takes.

    Attributes:
        joule: Of all clients.
        by_airtime: By how much it changes with each one's air time, (K,), at most 0.
        by_band: And with its bandwidth, (K,), at most 0.
    """

    joule: float
    by_airtime: FloatArray
    by_band: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sending:
    """The problem, for K clients and P stages.

    Attributes:
        price_per_s: What a second of a stage costs, above 0, (P,).
        offset_s: What a client does besides sending in a stage, (P, K).
        bit: What it sends in a stage, (P, K); in every stage somebody sends.
        floor_s: What a stage takes in any case, (P,).
        sent_bit: What a client sends in all, (K,).
        price_per_joule: What a joule of sending costs.
        gain_to_noise_hz_per_watt: |h|²/N0, (K,).
        most_watt: Highest transmit power, (K,).
    """

    price_per_s: FloatArray
    offset_s: FloatArray
    bit: FloatArray
    floor_s: FloatArray
    sent_bit: FloatArray
    price_per_joule: float
    gain_to_noise_hz_per_watt: FloatArray
    most_watt: FloatArray

    def least_airtime(self, band_hz: FloatArray) -> FloatArray:
        """Seconds per bit at the highest power in these bands, (K,)."""
        ratio = self.most_watt * self.gain_to_noise_hz_per_watt / band_hz
        found: FloatArray = _LN2 / (band_hz * np.log1p(ratio))
        return found

    def stage_s(self, airtime: FloatArray) -> FloatArray:
        """What the stages take, (P,)."""
        sending = np.multiply(self.bit, airtime, out=np.zeros_like(self.bit), where=self.bit > 0)
        found: FloatArray = np.maximum(self.floor_s, (self.offset_s + sending).max(axis=1))
        return found

    def slowest_airtime(self, deadline_s: FloatArray) -> tuple[FloatArray, IntArray]:
        """The longest air times that meet the stages' deadlines, (K,), and the stage that asks for each, (K,).

        Infinite for a client that sends nothing; below 0 for one that is late before it sends.
        """
        room = np.full(self.bit.shape, np.inf)
        np.divide(deadline_s[:, None] - self.offset_s, self.bit, out=room, where=self.bit > 0)
        stage: IntArray = room.argmin(axis=0)
        return room[stage, np.arange(len(stage))], stage

    def watt(self, airtime: FloatArray, band_hz: FloatArray) -> FloatArray:
        """The power that these air times need, (K,)."""
        found: FloatArray = band_hz / self.gain_to_noise_hz_per_watt * np.expm1(_LN2 / (band_hz * airtime))
        return found

    def joule(self, airtime: FloatArray, band_hz: FloatArray) -> FloatArray:
        """The energy of all that a client sends, (K,)."""
        load = _LN2 / (band_hz * airtime)
        grown = np.divide(np.expm1(load), load, out=np.ones_like(load), where=load > 0)
        return self.least_joule * grown

    @functools.cached_property
    def least_joule(self) -> FloatArray:
        """What the energy tends to where there is all the time and all the band of the world, (K,)."""
        found: FloatArray = self.sent_bit * _LN2 / self.gain_to_noise_hz_per_watt
        return found

    def energy(self, airtime: FloatArray, band_hz: FloatArray) -> "Energy":
        """The same, and by how much it changes."""
        load = _LN2 / (band_hz * airtime)
        # (e^u (u - 1) + 1) / u and (e^u - 1)/u; their series where the differences have no digits left.
        near = load < 1e-4
        safe = np.where(near, 1.0, load)
        grown = np.expm1(safe)
        falls = np.where(near, load * (0.5 + load / 3.0), grown + 1.0 - grown / safe)
        joule = self.least_joule * np.where(near, 1.0 + load * (0.5 + load / 6.0), grown / safe)
        saved = self.least_joule * falls
        return Energy(joule=float(joule.sum()), by_airtime=-saved / airtime, by_band=-saved / band_hz)

    def cost(self, airtime: FloatArray, band_hz: FloatArray) -> float:
        """What it costs in all."""
        joule = float(self.joule(airtime, band_hz).sum())
        return float(self.price_per_s @ self.stage_s(airtime)) + self.price_per_joule * joule

    def sends(self) -> BoolArray:
        """Who sends anything at all, (K,)."""
        found: BoolArray = self.sent_bit > 0
        return found
