"""Allocation policies: what clients are given, decided from what was observed. One file per policy, one line here."""

from lightning_sfl.policies.asfl import ASFL
from lightning_sfl.policies.best_uniform import BestUniform
from lightning_sfl.policies.decision import Decision, InfeasibleError, Policy
from lightning_sfl.policies.equal_bandwidth import EqualBandwidth
from lightning_sfl.policies.fixed import Fixed
from lightning_sfl.policies.fixed_bits import FixedBits
from lightning_sfl.policies.habs_rms import HabsRms
from lightning_sfl.policies.hasfl import HASFL
from lightning_sfl.policies.latency_only import LatencyOnly
from lightning_sfl.policies.maximum_power import MaximumPower
from lightning_sfl.policies.myopic import Myopic
from lightning_sfl.policies.observation import Observation
from lightning_sfl.policies.random_allocation import RandomAllocation
from lightning_sfl.policies.rbs_hams import RbsHams
from lightning_sfl.policies.rbs_rhams import RbsRhams
from lightning_sfl.policies.sflam import SFLAM

__all__ = [
    "ASFL",
    "HASFL",
    "SFLAM",
    "BestUniform",
    "Decision",
    "EqualBandwidth",
    "Fixed",
    "FixedBits",
    "HabsRms",
    "InfeasibleError",
    "LatencyOnly",
    "MaximumPower",
    "Myopic",
    "Observation",
    "Policy",
    "RandomAllocation",
    "RbsHams",
    "RbsRhams",
]
