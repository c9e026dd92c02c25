import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_cases import COLOUR, GREY, leakage, report, row, weak_row

from lightning_sfl.report.html_file import to_html
from lightning_sfl.report.report import Interval, Picture

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect", "line"}
ATTACK = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """The tags with their attributes, the texts, and the cells of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []  # every tag was closed

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(*rows, **changes) -> Page:
    return Page(to_html(report(*rows, **changes)))


def test_nothing_is_loaded_from_anywhere():
    found = page(row("stem"), weak_row("head"))

    links = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert any(link.startswith("data:image/png;base64,") for link in links)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "embed"}
    styles = "".join(re.findall(r"<style.*?</style>", to_html(report(row())), flags=re.DOTALL))
    assert "@import" not in styles
    assert "url(http" not in styles


@pytest.mark.parametrize(
    "place", ["title", "cut", "metric", "setting", "version", "note", "attack", "threat", "baseline"]
)
def test_markup_in_a_text_is_shown_not_run(place):
    rows = {
        "cut": row(ATTACK),
        "attack": row(leakage=leakage(attack=ATTACK)),
        "threat": row(leakage=leakage(threat=ATTACK)),
        "baseline": row(leakage=leakage(baseline=ATTACK)),
    }
    changes = {
        "title": {"title": ATTACK},
        "metric": {"metric": ATTACK},
        "setting": {"settings": {ATTACK: ATTACK}},
        "version": {"versions": {ATTACK: ATTACK}},
        "note": {"notes": (ATTACK,)},
    }

    text = to_html(report(rows.get(place, row()), **changes.get(place, {})))

    found = Page(text)
    assert "<script" not in text.lower()
    assert found.named("script") == []
    assert ATTACK in found.text


def test_both_tables_have_one_row_per_cut_in_order():
    found = page(row("stem"), row("block1"), weak_row("head"))

    cuts = [cells[0] for cells in found.rows]
    assert cuts == ["cut", "stem", "block1", "head"] * 2


def test_costs_are_shown_with_units():
    found = page(row("stem"))

    assert [" ".join(cell.split()) for cell in found.rows[1]] == [
        "stem",
        "0.875",
        "2.5 MFLOP",
        "4.9 MFLOP",
        "1,272 (5.0 KiB)",
        "1.5 MiB",
        "32.0 KiB",
        "2.5 MiB",
        "2.5 MiB",
        "250 ms",
        "–",
        "12.5 s",
    ]
    assert found.rows[0][1] == "val_acc"


def test_simulated_costs_have_columns_where_a_world_was_simulated():
    plain = page(row("stem", simulated_s_per_round=None))

    assert len(plain.rows[0]) == len(page(row("stem")).rows[0]) - 2
    assert plain.rows[1][-1] == "12.5 s"


def test_leakage_is_shown_beside_the_best_guess_with_intervals():
    found = page(row("stem"))

    assert found.rows[3] == [
        "stem",
        "31.2 [30.5, 32.0]",
        "9.8",
        "21.5 [20.0, 23.0]",
        "0.91 [0.88, 0.93]",
        "0.21",
        "16",
        "3.2 s",
        "leaks",
    ]


def test_unknown_values_are_dashes():
    costs = page(weak_row("head")).rows[1]

    assert [costs[place] for place in (1, 7, 8, 9)] == ["–"] * 4


def test_only_a_leak_is_marked_as_one():
    text = to_html(report(row("stem"), weak_row("head")))

    marked = re.findall(r'<td class="text( leak)?">([^<]*)</td>', text)
    assert marked == [(" leak", "leaks"), ("", "inconclusive: the attack was too weak")]


def test_pictures_hold_the_very_pixels():
    found = page(row("stem"), weak_row("head"))

    images = [attributes["src"] for attributes in found.named("img")]
    decoded = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))))
        for address in images
    ]
    assert [array.shape for array in decoded] == [(4, 6), (4, 6), (3, 5, 3), (3, 5, 3)]
    assert np.array_equal(decoded[0], np.asarray(GREY)[..., 0])
    assert np.array_equal(decoded[1], np.asarray(GREY)[::-1, :, 0])
    assert np.array_equal(decoded[2], np.asarray(COLOUR))
    assert "28.5 dB" in found.text


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_any_number_of_channels_can_be_shown(channels):
    """Depth maps and satellite images have 2, 4 or more channels; a finished run must not fail for a picture."""
    pixels = tuple(tuple(tuple(range(channels)) for _ in range(3)) for _ in range(3))
    pair = Picture(original=pixels, reconstruction=pixels, psnr_db=20.0)

    found = page(row("stem", leakage=leakage(pictures=(pair,))))

    assert [cells[0] for cells in found.rows] == ["cut", "stem"] * 2


def test_the_plot_is_drawn_in_the_page_with_every_cut_in_both_panels():
    text = to_html(report(row("stem"), row("block1"), weak_row("head")))

    svg = text[text.index("<svg") : text.index("</svg>")]
    for name in ("stem", "block1", "head"):
        assert svg.count(f"<!-- {name} -->") == 2


def drawn_names(text: str) -> dict[str, list[tuple[float, float]]]:
    """Where the plot writes each text: its place on the page of the SVG, by text."""
    svg = text[text.index("<svg") : text.index("</svg>")]
    found: dict[str, list[tuple[float, float]]] = {}
    for name, x, y in re.findall(r"<!-- (.*?) -->\s*<g[^>]*transform=\"translate\((\S+) (\S+?)\)", svg):
        found.setdefault(name, []).append((float(x), float(y)))
    return found


def test_a_cut_that_computes_nothing_is_still_in_the_plot():
    """An embedding or a normalisation costs no matrix product: 0 FLOP, which a logarithmic axis cannot show."""
    free = row("embedding", client_forward_flop_per_sample=0.0, client_backward_flop_per_sample=0.0)

    text = to_html(report(free, row("block1")))

    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', text).groups())
    places = drawn_names(text)
    assert len(places["block1"]) == 2  # the search finds them
    assert len(places["embedding"]) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places["embedding"])


def test_a_cut_that_computes_nothing_can_stand_alone():
    free = row("embedding", client_forward_flop_per_sample=0.0, client_backward_flop_per_sample=0.0)

    found = page(free)

    assert found.rows[1][2] == "0.0 FLOP"


def test_an_interval_of_no_width_can_be_drawn():
    capped = Interval(mean=100.0, low=100.0, high=100.0, records=8)

    found = page(row("stem", leakage=leakage(psnr_db=capped)))

    assert found.rows[3][1] == "100.0 [100.0, 100.0]"


def test_a_report_without_cuts_is_a_page_too():
    assert [cells[0] for cells in page().rows] == ["cut", "cut"]
