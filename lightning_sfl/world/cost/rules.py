"""What the algorithms of the design's table do, as far as it costs anything."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probing:
    """What a client that runs forward only does for every direction that it probes.

    Attributes:
        passes: Its forward passes.
        crosses: Whether each is sent to the server, which computes the loss; else the client computes its own scalar
            and uploads it.
        anchored: Whether there is a pass with the weights as they are besides, which the server trains on.
        returns_gradient: Whether the cut gradient comes back.
    """

    passes: int
    crosses: bool = False
    anchored: bool = True
    returns_gradient: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What one algorithm does.

    Attributes:
        name: The algorithm.
        uses_cut: Whether a server computes part of the model. Without one, clients do not meet between aggregations.
        one_by_one: Whether the server serves one client after the other, each with all its mini-batches of a round.
        hands_on: Whether a round is one client's turn at the weights.
        probing: What clients do that estimate their gradient from forward passes; None for all others.
        sends_weights: Whether clients get the weights at a round's beginning and give them back at its end.
        averages: Whether what they give back is averaged.
        server_replicas: Whether the server keeps all its layers once per client, not only those before the deepest cut.
    """

    name: str
    uses_cut: bool = True
    one_by_one: bool = False
    hands_on: bool = False
    probing: Probing | None = None
    sends_weights: bool = True
    averages: bool = True
    server_replicas: bool = False

    def check_probes(self, probes: int | None) -> None:
        """Raise a ValueError unless there are probes where there have to be, and only there."""
        if self.probing is not None and (probes is None or probes < 1):
            raise ValueError(f"probes={probes!r}: {self.name} needs the number of probes, an integer of at least 1.")
        if self.probing is None and probes is not None:
            raise ValueError(f"probes={probes!r}: {self.name} has no probes; leave it out.")


RULES = {
    rule.name: rule
    for rule in (
        Rule(name="splitfed_shared"),
        Rule(name="splitfed_v1", server_replicas=True),
        Rule(name="splitfed_v2", one_by_one=True),
        Rule(name="split_learning", one_by_one=True, hands_on=True, averages=False),
        Rule(name="fedavg", uses_cut=False),
        Rule(name="ho_sfl", probing=Probing(passes=1, returns_gradient=True), sends_weights=False, averages=False),
        Rule(name="heron_sfl", probing=Probing(passes=1), sends_weights=False, averages=False),
        Rule(name="hosl", probing=Probing(passes=2, crosses=True), sends_weights=False, averages=False),
        Rule(
            name="zo_sfl",
            probing=Probing(passes=2, crosses=True, anchored=False),
            sends_weights=False,
            averages=False,
        ),
    )
}


def rule_of(algorithm: str) -> Rule:
    """The rule of an algorithm, or a ValueError naming those there are."""
    if algorithm not in RULES:
        raise ValueError(f"algorithm={algorithm!r} is not known here; choose one of {sorted(RULES)}.")
    return RULES[algorithm]
