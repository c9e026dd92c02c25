import base64
import io
import re

import numpy as np
import pytest
from html_page import ATTACK, Page, page, tidy
from PIL import Image
from report_cases import (
    COLOUR,
    GREY,
    cell,
    decision,
    leakage,
    not_run,
    policy_row,
    report,
    row,
    victim,
    weak_cell,
    weak_row,
)

from lightning_sfl.report import html_file
from lightning_sfl.report.leakage import Baseline, Control, Picture, Verdict


@pytest.fixture(autouse=True)
def without_the_plot(request, monkeypatch):
    """Drawing takes most of a page's time: only the tests that name it pay for it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(html_file, "tradeoff_svg", lambda report: "<svg></svg>")


@pytest.fixture
def drawn():
    """For tests of pages with their plot."""


@pytest.mark.usefixtures("drawn")
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
    styles = "".join(re.findall(r"<style.*?</style>", html_file.to_html(report(row())), flags=re.DOTALL))
    assert "border-collapse" in styles  # the search finds it
    assert "@import" not in styles
    assert "url(http" not in styles


CELLS_WITH_MARKUP = {
    "attack": cell(attack=ATTACK),
    "recovers": cell(recovers=ATTACK),
    "measure": cell(measure=ATTACK),
    "parties": cell(parties=(ATTACK,)),
    "sees": cell(sees=(ATTACK,)),
    "knows": cell(knows=(ATTACK,)),
    "mode": cell(victim=victim(mode=ATTACK)),
    "batch norm": cell(victim=victim(batch_norm=ATTACK)),
    "dtype": cell(victim=victim(dtype=ATTACK)),
    "encoded": cell(victim=victim(encoded=ATTACK)),
    "baseline": cell(baseline=ATTACK, baselines=(Baseline(name=ATTACK, value=cell().value),)),
    "others": cell(others={ATTACK: cell().value}),
    "control": cell(control=Control(victim=ATTACK, value=1.0, needed=1.0)),
    "reason": cell(reason=ATTACK),
    "bound": cell(bound=ATTACK, verdict=Verdict.BOUNDED),
    "budget": cell(budget=ATTACK),
    "which picture": cell(pictures=(Picture(which=ATTACK, original=GREY, reconstruction=GREY, psnr_db=9.0),)),
}
ROWS_WITH_MARKUP = {
    "cut": row(ATTACK),
    "cut that was not attacked": row(ATTACK, leakage=None),
    "name of a policy's row": policy_row(cut=ATTACK),
    "policy": policy_row(policy=ATTACK),
    **{
        f"decision, {name}": policy_row(decision(**{name: ATTACK}))
        for name in ("cuts", "batch_sizes", "bits", "controls", "reason")
    },
    "not run": row(leakage=leakage(not_run=(not_run(attack=ATTACK),))),
    "why not run": row(leakage=leakage(not_run=(not_run(reason=ATTACK),))),
    **{place: row(leakage=leakage(changed)) for place, changed in CELLS_WITH_MARKUP.items()},
}
REPORTS_WITH_MARKUP = {
    "title": {"title": ATTACK},
    "metric": {"metric": ATTACK},
    "setting": {"settings": {ATTACK: ATTACK}},
    "version": {"versions": {ATTACK: ATTACK}},
    "note": {"notes": (ATTACK,)},
}


@pytest.mark.parametrize("place", [*ROWS_WITH_MARKUP, *REPORTS_WITH_MARKUP])
def test_markup_in_a_text_is_shown_not_run(place):
    text = html_file.to_html(report(ROWS_WITH_MARKUP.get(place, row()), **REPORTS_WITH_MARKUP.get(place, {})))

    found = Page(text)
    assert "<script" not in text.lower()
    assert found.named("script") == []
    assert ATTACK in found.text


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("changed", [row(ATTACK), row(ATTACK, leakage=None)], ids=["in the plot", "left out of it"])
def test_markup_in_the_name_of_a_cut_is_not_run_by_the_plot(changed):
    text = html_file.to_html(report(changed))

    assert "<script" not in text.lower()
    assert text.count("<svg") == 1


@pytest.mark.usefixtures("drawn")
def test_the_plot_is_drawn_in_the_page():
    text = html_file.to_html(report(row("stem"), weak_row("head")))

    svg = text[text.index("<svg") : text.index("</svg>")]
    for name in ("stem", "head"):
        assert svg.count(f"<!-- {name} -->") == 2


def test_costs_have_one_row_per_cut_in_order():
    found = page(row("stem"), row("block1"), weak_row("head"))

    assert [cells[0] for cells in found.costs] == ["cut", "stem", "block1", "head"]


def test_costs_are_shown_with_units():
    found = page(row("stem"))

    assert found.costs[1] == [
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
    assert found.costs[0][1] == "val_acc"


def test_simulated_costs_have_columns_where_a_world_was_simulated():
    plain = page(row("stem", simulated_s_per_round=None))

    assert len(plain.costs[0]) == len(page(row("stem")).costs[0]) - 2
    assert plain.costs[1][-1] == "12.5 s"


def test_unknown_values_are_dashes():
    costs = page(weak_row("head")).costs[1]

    assert [costs[place] for place in (1, 7, 8, 9)] == ["–"] * 4


def test_decisions_of_a_policy_are_a_table_of_their_own():
    found = page(row("stem"), policy_row(decision(), decision(round=2, bits="10 × 8")))

    assert tidy(found.tables[-1]) == [
        ["round", "clients", "cuts", "batch sizes", "bits", "power, clock, bandwidth", "reason"],
        ["1", "10", "3 × block1, 7 × stem", "10 × 8", "–", "0.1 to 2 W", "the shortest round"],
        ["2", "10", "3 × block1, 7 × stem", "10 × 8", "10 × 8", "0.1 to 2 W", "the shortest round"],
    ]
    assert "What HASFL decided between rounds" in found.text
    assert "Decisions" not in page(row("stem")).text


def test_the_row_of_a_policy_has_no_figures_of_one_cut_and_says_that_it_was_not_attacked():
    found = page(row("stem"), policy_row())

    assert found.costs[2] == ["HASFL", "0.875", "–", "–", "–", "–", "–", "2.5 MiB", "2.5 MiB", "250 ms", "–", "12.5 s"]
    assert "HASFL was not attacked: a policy decided for it." in found.text
    assert "No attack was tried" not in found.text
    assert "It was never asked" in found.text


def images_of(found: Page) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(tag["src"].removeprefix("data:image/png;base64,")))))
        for tag in found.named("img")
    ]


def test_pictures_hold_the_very_pixels():
    found = page(row("stem"), weak_row("head"))

    decoded = images_of(found)
    assert [array.shape for array in decoded] == [(4, 6), (4, 6), (3, 5, 3), (3, 5, 3)]
    assert np.array_equal(decoded[0], np.asarray(GREY)[..., 0])
    assert np.array_equal(decoded[1], np.asarray(GREY)[::-1, :, 0])
    assert np.array_equal(decoded[2], np.asarray(COLOUR))
    assert np.array_equal(decoded[3], np.asarray(COLOUR)[::-1])


def test_worst_and_median_record_are_named_and_others_are_not():
    plain = Picture(which="", original=GREY, reconstruction=GREY, psnr_db=11.5)

    text = page(row(leakage=leakage(cell(pictures=(*cell().pictures, plain))))).text

    assert "worst record, 28.5 dB" in text
    assert "median record, 27.5 dB" in text
    assert "\n11.5 dB" in text or " 11.5 dB" in text
    assert "record, 11.5 dB" not in text


def test_pictures_of_the_strongest_attack_come_first_and_the_others_are_folded_away():
    """Two pairs of the strongest stand open: of six images, two are in the fold."""
    other = weak_cell(pictures=(Picture(which="", original=GREY[:2], reconstruction=GREY[:2], psnr_db=9.5),))

    found = page(row(leakage=leakage(other, cell())))

    assert [len(array) for array in images_of(found)] == [4, 4, 3, 3, 2, 2]
    (fold,) = [(text, count) for text, count in zip(found.folded, found.folded_images, strict=True) if count]
    assert fold[1] == 2
    assert "Pictures of the other attacks" in fold[0]
    assert "decoder" in fold[0]
    assert "9.5 dB" in fold[0]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_any_number_of_channels_can_be_shown(channels):
    """Depth maps and satellite images have 2, 4 or more channels; a finished run must not fail for a picture."""
    pixels = tuple(tuple(tuple(range(channels)) for _ in range(3)) for _ in range(3))
    pair = Picture(which="", original=pixels, reconstruction=pixels, psnr_db=20.0)

    found = page(row("stem", leakage=leakage(cell(pictures=(pair,)))))

    assert [cells[0] for cells in found.costs] == ["cut", "stem"]
    assert len(images_of(found)) == 2


def test_a_report_without_cuts_is_a_page_too():
    found = page()

    assert [cells[0] for cells in found.costs] == ["cut"]
    assert [cells[0] for cells in found.leakage] == ["cut"]
