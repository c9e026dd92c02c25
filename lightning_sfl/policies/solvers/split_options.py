"""What clients choose from when splits are decided."""

import dataclasses

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What K clients choose from: O options each, of which every client takes one.

    Attributes:
        cost: What an option costs by itself, (K, O); infinite where a client has no such option.
        time_s: What it takes in every stage, (S, K, O).
        weight: What a second of every stage costs, (S,), at least 0.
        depth: The cut of every option, (O,).
        base: What there is to pay besides, for every deepest cut, (C,).
        floor_s: What every stage takes at least, (S,).
    """

    cost: FloatArray
    time_s: FloatArray
    weight: FloatArray
    depth: IntArray
    base: FloatArray
    floor_s: FloatArray

    def longest_s(self, chosen: IntArray) -> FloatArray:
        """What every stage takes if client i takes option chosen[i], (S,)."""
        everybody = np.arange(len(chosen))
        longest: FloatArray = np.maximum(self.time_s[:, everybody, chosen].max(axis=1), self.floor_s)
        return longest

    def value(self, chosen: IntArray) -> float:
        """What there is to pay then."""
        own = self.cost[np.arange(len(chosen)), chosen].sum()
        return float(own + self.weight @ self.longest_s(chosen) + self.base[self.depth[chosen].max()])
