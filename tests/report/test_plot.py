import re
import xml.etree.ElementTree as ET

import pytest
from report_cases import (
    bounded_cell,
    cell,
    interval,
    labels_cell,
    leakage,
    policy_row,
    report,
    row,
    weak_cell,
    weak_row,
)

from lightning_sfl.report.leakage import Verdict
from lightning_sfl.report.plot import tradeoff_svg

GUESS = "best guess without messages, at that cut"


def texts(svg: str) -> list[str]:
    """What the plot writes; matplotlib draws letters as shapes and leaves the text in a comment."""
    return re.findall(r"<!-- (.*?) -->", svg)


def places(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Where the plot writes each text, by text."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, x, y in re.findall(r"<!-- (.*?) -->\s*<g[^>]*transform=\"translate\((\S+) (\S+?)\)", svg):
        found.setdefault(name, []).append((float(x), float(y)))
    return found


def test_every_cut_is_drawn_in_both_panels():
    svg = tradeoff_svg(report(row("stem"), row("block1"), weak_row("head")))

    ET.fromstring(svg)
    for name in ("stem", "block1", "head"):
        assert texts(svg).count(name) == 2
    assert "PSNR (dB) of the strongest attack, 95 % interval" in texts(svg)
    assert not any("no attack" in text for text in texts(svg))


def test_the_strongest_attack_on_images_is_drawn():
    """31.25 dB of the strong one, 8.75 dB of the weak one; the gain of labels is not in decibels, and not compared."""
    several = leakage(weak_cell(), labels_cell(gain=interval(99.0, 98.0, 100.0)), cell())

    alone = tradeoff_svg(report(row("stem"), weak_row("head")))
    among = tradeoff_svg(report(row("stem", leakage=several), weak_row("head")))

    assert places(among) == places(alone)
    assert texts(among) == texts(alone)


def test_cuts_without_an_attack_on_images_are_named_instead():
    svg = tradeoff_svg(report(row("stem", leakage=None), row("block1"), row("head", leakage=leakage(labels_cell()))))

    assert "no attack on images ran at: stem, head" in texts(svg)
    assert texts(svg).count("block1") == 2
    assert texts(svg).count("stem") == 0
    assert texts(svg).count("head") == 0


@pytest.mark.parametrize("cuts", [[], [row("stem", leakage=None)], [row("stem", leakage=leakage(labels_cell()))]])
def test_there_may_be_nothing_to_draw(cuts):
    svg = tradeoff_svg(report(*cuts))

    ET.fromstring(svg)
    assert GUESS not in texts(svg)
    assert "smashed bytes per sample" in texts(svg)


def test_the_legend_names_the_verdicts_that_there_are_once():
    rows = [row("a"), row("b"), weak_row("c"), row("d", leakage=leakage(bounded_cell()))]

    written = texts(tradeoff_svg(report(*rows)))

    names = [verdict.value for verdict in Verdict]
    assert [text for text in written if text in names] == [
        Verdict.LEAKS,
        Verdict.INCONCLUSIVE,
        Verdict.BOUNDED,
    ]
    assert written.count(GUESS) == 1


def test_verdicts_differ_by_shape_or_filling_and_not_by_colour_alone():
    """The legend writes each name behind its mark: a shape that is defined once, and its filling."""
    rows = [row(verdict.name, leakage=leakage(cell(verdict=verdict))) for verdict in Verdict]

    svg = tradeoff_svg(report(*rows))

    shapes = dict(re.findall(r'<path id="(\w+)" d="([^"]+)"', svg))
    marks = re.findall(
        r'<use xlink:href="#(\w+)"[^>]*fill: (#\w+)[^>]*>\s*</g>\s*</g>\s*<g id="\w+">\s*<!-- (.*?) -->', svg
    )
    found = {name: (shapes[shape], fill == "#ffffff") for shape, fill, name in marks if name in list(Verdict)}
    assert found.keys() == set(Verdict)
    assert len(set(found.values())) == len(Verdict)


def test_a_policy_has_no_place_in_it():
    """Its cuts moved, so it has no cost of one cut; it was not to be attacked either."""
    written = texts(tradeoff_svg(report(row("stem"), policy_row())))

    assert not [text for text in written if "HASFL" in text]


def test_a_cut_that_computes_nothing_is_still_drawn():
    """An embedding or a normalisation costs no matrix product: 0 FLOP, which a logarithmic axis cannot show."""
    free = row("embedding", client_forward_flop_per_sample=0.0, client_backward_flop_per_sample=0.0)

    svg = tradeoff_svg(report(free, row("block1")))

    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    assert len(places(svg)["block1"]) == 2  # the search finds them
    assert len(places(svg)["embedding"]) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places(svg)["embedding"])


def test_a_cut_that_computes_nothing_can_stand_alone():
    free = row("embedding", client_forward_flop_per_sample=0.0, client_backward_flop_per_sample=0.0)

    assert len(places(tradeoff_svg(report(free)))["embedding"]) == 2


@pytest.mark.parametrize(
    "value",
    [
        interval(100.0, 100.0, 100.0),
        interval(31.25, None, None, records=1, clients=1),
        interval(9.600000000000001, 9.6, 9.6),
        interval(9.6, 9.600000000000001, 9.600000000000001),
    ],
    ids=["no width", "no interval", "mean above by rounding", "mean below by rounding"],
)
def test_any_interval_can_be_drawn(value):
    """Means of equal values differ by a rounding when they are taken of resampled clients: matplotlib refuses bars of
    negative length, and a finished run must not fail for that."""
    svg = tradeoff_svg(report(row("stem", leakage=leakage(cell(value=value)))))

    assert texts(svg).count("stem") == 2
