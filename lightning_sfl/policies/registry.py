"""The policies by name: a line each."""

import importlib
from collections.abc import Mapping

POLICIES: Mapping[str, str] = {
    "hasfl": "lightning_sfl.policies.hasfl:HASFL",
    "best_uniform": "lightning_sfl.policies.best_uniform:BestUniform",
    "random": "lightning_sfl.policies.random_allocation:RandomAllocation",
    "rbs_hams": "lightning_sfl.policies.rbs_hams:RbsHams",
    "habs_rms": "lightning_sfl.policies.habs_rms:HabsRms",
    "rbs_rhams": "lightning_sfl.policies.rbs_rhams:RbsRhams",
    "asfl": "lightning_sfl.policies.asfl:ASFL",
    "fixed": "lightning_sfl.policies.fixed:Fixed",
    "latency_only": "lightning_sfl.policies.latency_only:LatencyOnly",
    "myopic": "lightning_sfl.policies.myopic:Myopic",
    "sflam": "lightning_sfl.policies.sflam:SFLAM",
    "maximum_power": "lightning_sfl.policies.maximum_power:MaximumPower",
    "equal_bandwidth": "lightning_sfl.policies.equal_bandwidth:EqualBandwidth",
    "fixed_bits": "lightning_sfl.policies.fixed_bits:FixedBits",
}
"""Where each policy's class is, as ``module:class``."""


def policy_class(name: str) -> type:
    """The class of a policy, by its name; a ValueError names those there are."""
    if name not in POLICIES:
        raise ValueError(f"policy={name!r} is not known. Accepted are {', '.join(map(repr, sorted(POLICIES)))}.")
    module, _, found = POLICIES[name].partition(":")
    policy: type = getattr(importlib.import_module(module), found)
    return policy
