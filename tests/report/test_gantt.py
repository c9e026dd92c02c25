import re
import xml.etree.ElementTree as ET

import pytest

from lightning_sfl.report.gantt import COLOURS, Bar, gantt_svg


def bar(party="client/0", stage="forward", start_s=0.0, end_s=1.0):
    return Bar(party=party, stage=stage, start_s=start_s, end_s=end_s)


def round_of(clients):
    return [
        *(
            bar(f"client/{client}", stage, i, i + 1)
            for client in range(clients)
            for i, stage in enumerate(("forward", "wait"))
        ),
        bar("server", "wait", 0, 1),
        bar("server", "server", 1, 2),
    ]


def texts(svg):
    """What the chart writes; matplotlib draws letters as shapes and leaves the text in a comment."""
    return re.findall(r"<!-- (.*?) -->", svg)


def drawn(svg, colour):
    """The boxes of a colour: left, right, top, bottom."""
    boxes = []
    for path in re.findall(r'<path d="([^"]+)"[^>]*?style="fill: ' + colour, svg):
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path)]
        boxes.append((min(numbers[::2]), max(numbers[::2]), min(numbers[1::2]), max(numbers[1::2])))
    return boxes


def test_every_party_has_a_row_with_the_server_last():
    svg = gantt_svg(round_of(3))
    ET.fromstring(svg)
    names = [text for text in texts(svg) if text.startswith(("client", "server"))]
    assert names[:4] == ["client/0", "client/1", "client/2", "server"]
    assert "simulated seconds" in texts(svg)
    assert not any("left out" in text for text in texts(svg))


def test_bars_stand_where_their_time_and_their_party_are():
    """0 to 1 s and 1 to 3 s of one client, 2 to 3 s of the server: the second is twice as long as the first and begins
    where it ends; the server's ends where that ends, in the row below."""
    svg = gantt_svg([bar(), bar(stage="uplink", start_s=1, end_s=3), bar("server", "server", 2, 3)])
    (forward, *_), (uplink, *_), (server, *_) = (
        drawn(svg, COLOURS[stage]) for stage in ("forward", "uplink", "server")
    )
    assert forward[1] == pytest.approx(uplink[0])
    assert uplink[1] - uplink[0] == pytest.approx(2 * (forward[1] - forward[0]), rel=1e-3)
    assert server[1] == pytest.approx(uplink[1])
    assert server[0] == pytest.approx((uplink[0] + uplink[1]) / 2, rel=1e-3)
    assert forward[2:] == pytest.approx(uplink[2:])
    assert server[2] > forward[3]


def test_the_legend_names_the_stages_that_there_are():
    written = texts(gantt_svg(round_of(2)))
    assert [text for text in written if text in COLOURS][1:] == ["forward", "server", "wait"]


def test_many_clients_are_left_out_and_counted():
    written = texts(gantt_svg(round_of(1023)))
    assert "client/19" in written
    assert "client/20" not in written
    assert "1,003 of 1,023 clients are left out" in written
    assert not any("left out" in text for text in texts(gantt_svg(round_of(20))))


def test_the_same_round_is_the_same_text():
    assert gantt_svg(round_of(3)) == gantt_svg(round_of(3))


def test_an_unknown_stage_and_an_empty_round_are_refused():
    with pytest.raises(ValueError, match=r"stage='sleep'.*'forward'"):
        gantt_svg([bar(stage="sleep")])
    with pytest.raises(ValueError, match=r"bars=\[\]"):
        gantt_svg([])
