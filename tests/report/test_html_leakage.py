import pytest
from html_page import Page, page
from report_cases import (
    bounded_cell,
    cell,
    interval,
    labels_cell,
    leakage,
    not_run,
    report,
    row,
    victim,
    weak_cell,
    weak_row,
)

from lightning_sfl.report import html_file


@pytest.fixture(autouse=True)
def without_the_plot(monkeypatch):
    """Drawing takes most of a page's time, and is no part of what is tested here."""
    monkeypatch.setattr(html_file, "tradeoff_svg", lambda report: "<svg></svg>")


def column(found: Page, heading: str) -> list[str]:
    """What stands below a heading, in the table of leakage."""
    headings = found.leakage[0]
    (place,) = [place for place, text in enumerate(headings) if text.startswith(heading)]
    return [cells[place] for cells in found.leakage[1:]]


def fold_of(found: Page, attack: str) -> str:
    """What is folded away behind an attack's name."""
    texts = [" ".join(text.split()) for text in found.folded]
    (text,) = [text for text in texts if text.startswith(f"{attack}:")]
    return text


def test_there_is_one_row_per_cut_and_attack_in_order():
    found = page(row("stem", leakage=leakage(cell(), weak_cell(), labels_cell())), weak_row("head"))

    assert column(found, "cut") == ["stem", "stem", "stem", "head"]
    assert [text.removesuffix(" strongest here") for text in column(found, "attack")] == [
        "white box",
        "decoder",
        "norms of cut gradients",
        "decoder",
    ]


def test_a_cell_is_shown_with_all_that_is_needed_to_judge_it():
    """10 records of 16 are 0.625 of them."""
    assert page(row("stem")).leakage[1] == [
        "stem",
        "white box strongest here",
        "leaks",
        "images PSNR (dB)",
        "31.2 [30.5, 32.0]",
        "9.8 mid-grey",
        "21.5 [20.0, 23.0]",
        "0.014",
        "41.5",
        "10 of 16 at least 20.0",
        "passed: 97.5",
        "16 of 4 clients",
        "3.2 s",
        "SSIM 0.91 [0.88, 0.93]",
    ]


def test_labels_are_shown_as_shares_and_what_is_unknown_as_a_dash():
    assert page(row("stem", leakage=leakage(labels_cell()))).leakage[1] == [
        "stem",
        "norms of cut gradients",
        "leaks partly",
        "labels labels right",
        "0.75 [0.50, 0.88]",
        "0.25 the most frequent class",
        "0.50 [0.25, 0.62]",
        "< 0.001",
        "1.00",
        "12 of 16 at least 0.90",
        "–",
        "16 of 4 clients",
        "3.2 s",
        "–",
    ]


def test_without_an_interval_the_mean_stands_with_the_reason():
    lone = cell(
        value=interval(31.25, None, None, records=1, clients=1),
        gain=interval(21.5, None, None, records=1, clients=1),
        share_recovered=1.0,
        others={"SSIM": interval(0.91, None, None, records=1, clients=1)},
    )

    found = page(row("stem", leakage=leakage(lone)))

    assert column(found, "value") == ["31.2 (no interval: 1 record)"]
    assert column(found, "gain") == ["21.5 (no interval: 1 record)"]
    assert column(found, "further") == ["SSIM 0.91 (no interval: 1 record)"]
    assert column(found, "records, clients") == ["1 of 1 client"]
    assert "None" not in found.text


def test_one_record_among_very_many_is_still_counted():
    """1 of 1000 rounds to 0 %: the count says what a share would hide."""
    found = page(row(leakage=leakage(cell(value=interval(9.0, 8.0, 10.0, records=1000), share_recovered=0.001))))

    assert column(found, "records recovered") == ["1 of 1000 at least 20.0"]


def test_the_strongest_attack_on_images_is_marked_by_a_word():
    """By gain, 21.5 dB against -1 dB; the gain of labels is a share, and not compared."""
    found = page(row("stem", leakage=leakage(weak_cell(), labels_cell(gain=interval(99.0, 98.0, 100.0)), cell())))

    assert column(found, "attack") == ["decoder", "norms of cut gradients", "white box strongest here"]
    assert [name for name in found.classes_of_rows if name] == ["best"]


def test_only_a_leak_is_marked_as_one():
    found = page(row("stem", leakage=leakage(cell(), labels_cell(), weak_cell(), bounded_cell())))

    texts = {"leaks", "leaks partly", "inconclusive: the attack was too weak", "bounded by: 2 bits per record crossed"}
    assert set(column(found, "verdict")) == texts
    marked = [attributes for attributes in found.named("td") if "leak" in (attributes.get("class") or "").split()]
    assert len(marked) == 2


def test_a_control_that_failed_is_said_to_have():
    found = page(row(leakage=leakage(weak_cell())))

    assert column(found, "control") == ["failed: 12.5"]
    assert "failed on an orthogonal map: 12.5, where 40.0 is needed" in fold_of(found, "decoder")


def test_attacks_that_were_not_run_are_listed_with_the_reason():
    found = page(
        row("stem", leakage=leakage(not_run=(not_run(), not_run(attack="shadow", reason="No auxiliary records.")))),
        row("head", leakage=leakage(not_run=(not_run(reason="No weights."),))),
    )

    assert found.tables[2][1:] == [
        ["stem", "hijacking", "It needs a malicious server."],
        ["stem", "shadow", "No auxiliary records."],
        ["head", "hijacking", "No weights."],
    ]
    assert len(page(row("stem")).tables) == 2


def test_cuts_at_which_nothing_was_tried_are_named():
    found = page(row("stem", leakage=None), row("block1"), row("head", leakage=None))

    assert "No attack was tried at: stem, head." in found.text
    assert column(found, "cut") == ["block1"]
    assert "No attack was tried" not in page(row("stem")).text


def test_a_cut_without_attacks_on_images_says_so():
    assert "No attack on images ran at this cut." in page(row(leakage=leakage(labels_cell()))).text
    assert "No attack on images ran at this cut." not in page(row()).text


def test_every_cell_says_who_saw_and_knew_what_of_whom():
    found = page(row(leakage=leakage(cell(), labels_cell())))

    strong = fold_of(found, "white box")
    for said in (
        "why It beats mid-grey, and at least one record passes 20.",
        "who could do it both servers, malicious server",
        "sees broadcast, smashed",
        "knows architecture, client_weights",
        "round 7",
        "mode training",
        "batch normalisation batch statistics",
        "type of what crossed float32",
        "codecs 8 bits",
        "batch sizes 4, 16",
        "repeated labels 25 % of the records",
        "p 0.002; 0.014 adjusted for the number of cells",
        "control passed on an orthogonal map: 97.5, where 40.0 is needed",
        "fit 1.5e-03, where 0 explains what was sent wholly",
        "budget 400 iterations",
    ):
        assert said in strong
    labels = fold_of(found, "norms of cut gradients")
    for said in ("nobody among the presets", "nothing besides", "repeated labels –", "none could be made", "fit –"):
        assert said in labels
    assert "no message" in fold_of(page(row(leakage=leakage(cell(sees=())))), "white box")


def test_every_guess_is_shown_and_what_knew_the_truth_is_told_apart():
    text = fold_of(page(row()), "white box")

    assert "guess: mid-grey 9.8 [9.0, 10.5] (the best; the gain is counted from it)" in text
    assert "guess: mean of auxiliary images 8.8 [8.0, 9.5] guess:" in text
    assert "guess: nearest auxiliary image 14.2 [13.0, 15.5] (chosen knowing the record; never counted from)" in text


def test_a_bound_is_named_in_its_fold_and_only_there_where_the_attack_succeeded():
    """An attack within its bound may leak all the same: then the verdict is the leak."""
    bounded = page(row(leakage=leakage(bounded_cell())))
    leaking = page(row(leakage=leakage(cell(bound="3 bits"))))

    assert "bounded by 2 bits per record crossed" in fold_of(bounded, "decoder")
    assert "bounded by 3 bits" in fold_of(leaking, "white box")
    assert column(leaking, "verdict") == ["leaks"]
    assert "bounded by" not in fold_of(page(row()), "white box")


def test_the_wall_time_of_a_cuts_attacks_is_given():
    assert "All attacks at this cut took 4.5 s of wall time." in page(row()).text


def test_an_untrained_victim_is_told_by_its_round():
    assert "round 0 " in fold_of(page(row(leakage=leakage(cell(victim=victim(round=0))))), "white box")


def test_every_figure_of_an_attack_is_on_the_page_once_folds_are_opened():
    """Folds need no program to open: they are elements of their own."""
    text = html_file.to_html(report(row(leakage=leakage(cell(), weak_cell()))))

    assert text.count('<details class="cell">') == 2
    assert "onclick" not in text


def test_indicators_stand_beneath_the_cut_and_nowhere_in_the_table():
    measured = leakage(indicators={"dFIL <of> it": 12.3456, "dependence": 0.5})

    found = page(row("stem", leakage=measured), row("head"))

    text = " ".join(" ".join(found.texts).split())
    assert "Without an attack, to explain what leaks and not to show it: dFIL <of> it 12.3; dependence 0.5." in text
    assert text.count("Without an attack") == 1
    assert not any("dFIL" in cell for cells in found.leakage for cell in cells)


def test_what_was_left_out_stands_in_the_fold_with_its_reason():
    found = page(row("stem", leakage=leakage(cell(left_out={"LPIPS": "no weights <here>"}))))

    assert any("left out: LPIPS no weights <here>" in " ".join(text.split()) for text in found.folded)
