"""The Gantt chart of one round, as SVG: who computes, sends and waits when."""

import dataclasses
import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch

MOST_CLIENTS = 20
SERVER = "server"
COLOURS = {
    "broadcast": "#1a73e8",
    "resplit": "#12b5cb",
    "forward": "#188038",
    "uplink": "#e37400",
    "server": "#5f6368",
    "downlink": "#f9ab00",
    "loss": "#9334e6",
    "backward": "#81c995",
    "upload": "#b3261e",
    "aggregation": "#202124",
    "wait": "#f1f3f4",
}
"""By stage, in the order of the legend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """What one party does from when to when.

    Attributes:
        party: ``"server"`` or a client, by the name that is shown.
        stage: What it does, one of ``COLOURS``.
        start_s: From when.
        end_s: Until when.
    """

    party: str
    stage: str
    start_s: float
    end_s: float


def gantt_svg(bars: Sequence[Bar]) -> str:
    """One row per party as they come, the server last; at most 20 clients, and how many are left out.

    Raises:
        ValueError: There is nothing to draw, or a stage has no colour.
    """
    if not bars:
        raise ValueError("bars=[] is not accepted: a round has at least one.")
    if unknown := sorted({bar.stage for bar in bars} - set(COLOURS)):
        raise ValueError(f"stage={unknown[0]!r} is not accepted; choose one of {list(COLOURS)}.")
    parties = list(dict.fromkeys(bar.party for bar in bars))
    clients = [party for party in parties if party != SERVER]
    shown = [*clients[:MOST_CLIENTS], *([SERVER] if SERVER in parties else [])]
    figure = Figure(figsize=(10, 1.6 + 0.3 * len(shown)), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    for row, party in enumerate(shown):
        own = [bar for bar in bars if bar.party == party]
        axis.broken_barh(
            [(bar.start_s, bar.end_s - bar.start_s) for bar in own],
            (row - 0.4, 0.8),
            facecolors=[COLOURS[bar.stage] for bar in own],
        )
    axis.set_yticks(range(len(shown)), shown)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(min(bar.start_s for bar in bars), max(bar.end_s for bar in bars))
    axis.set_xlabel("simulated seconds")
    axis.grid(visible=True, axis="x", alpha=0.25)
    if left_out := len(clients) - len(clients[:MOST_CLIENTS]):
        axis.set_title(f"{left_out:,} of {len(clients):,} clients are left out", fontsize=9, loc="left")
    used = {bar.stage for bar in bars if bar.party in shown}
    figure.legend(
        handles=[Patch(color=colour, label=stage) for stage, colour in COLOURS.items() if stage in used],
        loc="outside lower center",
        ncols=len(used),
        fontsize=8,
        frameon=False,
    )
    buffer = io.StringIO()
    # The salt makes the identifiers in the file the same every time.
    with mpl.rc_context({"svg.hashsalt": "gantt"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
