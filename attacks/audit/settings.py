"""How an audit is run."""

import dataclasses

from attacks.attack import Attack
from attacks.registry import ATTACKS, DEFAULT, make_attack
from attacks.threat import PRESETS, ThreatModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How an audit is run.

    Args:
        attacks: The attacks: names (``"white_box"``), or attacks with their settings; None takes the default ones.
        threat: Who attacks: split_server, fed_server, both_servers, network_observer or malicious_server. Attacks that
            need more than it grants are not run, and the report says so.
        records: Attack whole batches, one client after the other, until at least so many records were attacked.
        input_low: Smallest value that a pixel can have as the model is given it; one for all channels, or one for each.
        input_high: Largest.
        recovered_db: From which peak signal-to-noise ratio on an image counts as recovered.
        pictures: How many pairs of original and reconstruction to keep of every cell.
    """

    attacks: tuple[str | Attack, ...] | None = None
    threat: str = "both_servers"
    records: int = 32
    input_low: tuple[float, ...] = (0.0,)
    input_high: tuple[float, ...] = (1.0,)
    recovered_db: float = 20.0
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.records < 1:
            raise ValueError(f"records={self.records} is not accepted: give an integer of at least 1.")
        if self.pictures < 0:
            raise ValueError(f"pictures={self.pictures} is not accepted: give an integer of at least 0.")
        if self.threat not in PRESETS:
            raise ValueError(f"threat={self.threat!r} is not accepted: give one of {', '.join(PRESETS)}.")
        if self.attacks is not None and not self.attacks:
            raise ValueError("attacks=() is not accepted: name at least one, or None for the default ones.")
        for attack in self.attacks or ():
            if isinstance(attack, str) and attack not in ATTACKS:
                raise ValueError(f"attacks={attack!r} is not accepted: give one of {', '.join(ATTACKS)}.")

    @property
    def chosen(self) -> tuple[Attack, ...]:
        """The attacks, made."""
        named = DEFAULT if self.attacks is None else self.attacks
        return tuple(make_attack(attack) if isinstance(attack, str) else attack for attack in named)

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks."""
        return PRESETS[self.threat]
