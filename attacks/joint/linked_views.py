"""The same records in several rounds, and at several cuts, rebuilt together."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.images import ImageSpace
from attacks.joint.links import View, explained, links, most_telling
from attacks.joint.stacked import Term, of_rows, stacked
from attacks.observation import Observation, earlier_observations, last_observations
from attacks.reconstruction import Progress
from attacks.smashed.distance import carries_nothing, relative_distance_B, wide
from attacks.smashed.messages import WHITE_BOX, bound_of, forward_of
from attacks.smashed.victim import Forward, records_are_independent
from attacks.smashed.white_box import WhiteBox
from attacks.threat import ThreatModel

_ALTERNATIVES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkedViews:
    """White-box inversion of all messages that the same records sent: of several rounds, and of all cuts ever used.

    A record is sent again in every epoch, with other weights and other noise of quantisation, and under a moving cut
    sometimes from a shallower one: what a deep cut hides, another message may show. Nobody tells the attacker which
    rows belong together. He rebuilds a batch by itself, sends the result through his copy of each other round's half,
    and takes a row for the same record's if the rebuilt record explains it far better than all other rebuilt records
    and auxiliary images do (:func:`attacks.joint.links.links`), labels permitting; what crossed at a wider cut he
    rebuilds too, and sends the other way. Then the images behind all of these
    messages are sought together. A record whose own message the joint result explains much worse than before is taken
    from the single result: its link was wrong. (Ours; moving cuts make it possible.)

    Args:
        descent: How images are found, and the candidates for the prior.
        views: How many other messages of a client at most are added to the one under attack.
        candidates: How many messages at wider cuts, newest first, are rebuilt by themselves to find out where they
            belong.
        ratio: How much better a link explains a row than the next candidate must; of squared distances.
    """

    descent: WhiteBox = dataclasses.field(default_factory=WhiteBox)
    views: int = 4
    candidates: int = 16
    ratio: float = 0.5

    name: ClassVar[str] = "all messages of a record jointly (rounds, cuts)"
    needs: ClassVar[ThreatModel] = WHITE_BOX

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views={self.views} is not accepted: give an integer of at least 1.")
        if self.candidates < 0:
            raise ValueError(f"candidates={self.candidates} is not accepted: give an integer of at least 0.")
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} is not accepted: give a number above 0 and below 1.")

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return (
            f"twice {self.descent.budget}; up to {self.candidates} messages at wider cuts rebuilt to be linked, and up"
            f" to {self.views} of the same client added"
        )

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        anchors = last_observations(attacker)
        space = attacker.space
        alone = self.descent.tuned(attacker.auxiliary_unit, forward_of(attacker, anchors[0]), space, anchors[0].records)
        together: WhiteBox | None = None
        batches: list[RebuiltBatch] = []
        linked: list[int] = []
        cuts: set[str] = set()
        for place, anchor in enumerate(anchors):
            forward = forward_of(attacker, anchor)
            single = alone.reconstruct(anchor.smashed, forward, space, anchor.records)
            progress((place + 0.5) / len(anchors))
            views = self._views(attacker, anchor, single.unit_BCHW)
            unit_BCHW = single.unit_BCHW
            if views:
                # Read again: all rounds at once might not fit in memory.
                found = enumerate(earlier_observations(attacker, anchor))
                others = {at: other for at, other in found if at in {view.place for view in views}}
                joint = _joint(attacker, anchor, others, views)
                if together is None:  # one choice serves all clients
                    together = self.descent.tuned(attacker.auxiliary_unit, joint.forward, space, joint.records)
                made = together.reconstruct(joint.sent, joint.forward, space, joint.records)
                found_BCHW = made.unit_BCHW[: anchor.records]
                kept_B = _explains(found_BCHW, single.unit_BCHW, forward, anchor, space)
                unit_BCHW = torch.where(kept_B[:, None, None, None], found_BCHW, single.unit_BCHW)
                linked += [int(kept_B[record]) for record in {pair[0] for view in views for pair in view.pairs}]
                cuts |= {others[view.place].cut for view in views}
            images = space.to_input(unit_BCHW)
            batches.append(RebuiltBatch(number=anchor.number, images_BCHW=images, in_order=True, fit=None))
            progress((place + 1) / len(anchors))
        if not cuts:
            raise UnavailableError(
                "no record of the attacked batches was found in another message. Keep a message log of several epochs."
            )
        records = sum(anchor.records for anchor in anchors)
        return Findings(
            batches=tuple(batches),
            budget=(
                f"{self.budget}; {sum(linked)} of {records} records rebuilt from several messages, at"
                f" {', '.join(sorted(cuts))}"
            ),
            bound=bound_of(anchors),
        )

    def _views(self, attacker: Attacker, anchor: Observation, unit_BCHW: Tensor) -> list[View]:
        found: list[View] = []
        rebuilt = 0
        for place, other in enumerate(earlier_observations(attacker, anchor)):
            if not _has_rows(other) or carries_nothing(other.smashed):
                continue
            differs_AB = _other_labels(anchor, other)
            pairs = dict(self._links(attacker, unit_BCHW, other, differs_AB))
            if _elements(other) > _elements(anchor) and rebuilt < self.candidates:
                # What a wider cut shows is rebuilt better, so that it tells more surely where it belongs.
                first = dataclasses.replace(self.descent, candidates=self.descent.candidates[:1])
                forward = forward_of(attacker, other)
                own = first.reconstruct(other.smashed, forward, attacker.space, other.records)
                rebuilt += 1
                back = self._links(attacker, own.unit_BCHW, anchor, differs_AB.T)
                pairs = {record: row for record, row in pairs.items() if row not in {row for row, _ in back}}
                pairs |= {record: row for row, record in back}
            found.append(View(place=place, pairs=tuple(sorted(pairs.items())), elements=_elements(other)))
        return most_telling(found, anchor.records, self.views)

    def _links(
        self, attacker: Attacker, unit_ACHW: Tensor, other: Observation, differs_AB: Tensor
    ) -> list[tuple[int, int]]:
        """Which rebuilt images explain which rows of another message."""
        space, auxiliary_NCHW = attacker.space, attacker.auxiliary_unit
        forward = forward_of(attacker, other)
        with torch.no_grad():
            distance_AB = explained(forward(space.to_input(unit_ACHW)), other.smashed)
            others_B = torch.full((other.records,), torch.inf, dtype=torch.float64)
            if auxiliary_NCHW is not None:
                images = space.to_input(wide(auxiliary_NCHW[:_ALTERNATIVES]))
                others_B = explained(forward(images), other.smashed).amin(0)
        return links(distance_AB.masked_fill(differs_AB, torch.inf), others_B, self.ratio)


@dataclasses.dataclass(frozen=True)
class _Joint:
    """What ``records`` images would send, and what was sent; the first of them are the anchor's."""

    forward: Forward
    sent: tuple[Tensor, ...]
    records: int


def _joint(attacker: Attacker, anchor: Observation, others: Mapping[int, Observation], views: Sequence[View]) -> _Joint:
    terms: list[Term] = [(of_rows(forward_of(attacker, anchor), torch.arange(anchor.records)), anchor.smashed, 1.0)]
    records = anchor.records
    for view in views:
        other = others[view.place]
        forward = forward_of(attacker, other)
        record_of = {row: record for record, row in view.pairs}
        if _are_independent(forward, other, attacker.space):
            rows = torch.tensor(sorted(record_of))
            images = torch.tensor([record_of[int(row)] for row in rows])
            terms.append((of_rows(forward, images), tuple(sent[rows] for sent in other.smashed), 1.0))
            continue
        # Batch statistics tie the rows: the records that come nowhere else are sought as well.
        images = torch.tensor([record_of.get(row, -1) for row in range(other.records)])
        new = (images < 0).nonzero().flatten()
        images[new] = torch.arange(records, records + len(new))
        records += len(new)
        terms.append((of_rows(forward, images), other.smashed, 1.0))
    forward, sent = stacked(terms)
    return _Joint(forward, sent, records)


def _elements(observation: Observation) -> int:
    """How many numbers crossed of a record."""
    return sum(tensor[0].numel() for tensor in observation.smashed)


def _has_rows(observation: Observation) -> bool:
    return all(tensor.ndim > 1 and len(tensor) == observation.records for tensor in observation.smashed)


def _are_independent(forward: Forward, observation: Observation, space: ImageSpace) -> bool:
    """Whether rows can be computed without one another, and without what crossed beside them."""
    draw = torch.Generator().manual_seed(0)
    noise = space.to_input(space.random(observation.records, draw).to(observation.smashed[0].device))
    with torch.no_grad():
        both = forward(noise), forward(torch.cat([noise, noise[:1]]))  # of another size, nothing known is used
    same = all(torch.equal(one, other[:-1]) for one, other in zip(*both, strict=True))
    return same and records_are_independent(forward, noise)


def _other_labels(anchor: Observation, other: Observation) -> Tensor:
    """Where labels that crossed beside both say that two rows are not of one record, (A, B)."""
    differs_AB = torch.zeros(anchor.records, other.records, dtype=torch.bool)
    for name, labels_A in anchor.known.items():
        labels_B = other.known.get(name)
        if labels_B is None or labels_A.is_floating_point() or labels_A.ndim != 1 or labels_B.ndim != 1:
            continue
        if len(labels_A) == anchor.records and len(labels_B) == other.records:
            differs_AB |= labels_A.cpu()[:, None] != labels_B.cpu()[None]
    return differs_AB


_MUCH_WORSE, _ROUNDING = 4.0, 1e-3


def _explains(
    found_BCHW: Tensor, single_BCHW: Tensor, forward: Forward, anchor: Observation, space: ImageSpace
) -> Tensor:
    """Of which records the joint result explains their own message about as well as the single one, (B,)."""
    with torch.no_grad():
        joint_B, alone_B = (
            relative_distance_B(forward(space.to_input(unit_BCHW)), anchor.smashed)
            for unit_BCHW in (found_BCHW, single_BCHW)
        )
    return joint_B <= _MUCH_WORSE * alone_B + _ROUNDING
