"""The report as one self-contained HTML file."""

import base64
import io

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lightning_sfl.report import units
from lightning_sfl.report.leakage import Pixels, Verdict
from lightning_sfl.report.pictures import shown
from lightning_sfl.report.plot import tradeoff_svg
from lightning_sfl.report.report import Report


def to_html(report: Report) -> str:
    """The report as an HTML text that refers to no other file."""
    environment = Environment(
        loader=PackageLoader("lightning_sfl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": units.bytes_text,
        "flop": units.flop_text,
        "seconds": units.seconds_text,
        "joule": units.joule_text,
        "measured": units.measured_text,
        "interval": units.interval_text,
        "other": units.other_text,
        "probability": units.probability_text,
        "png": _png,
    }
    attacked = [(row.cut, row.leakage) for row in report.rows if row.leakage is not None]
    return environment.get_template("report.html").render(
        report=report,
        attacked=attacked,
        not_attacked=[row.cut for row in report.rows if row.leakage is None and row.policy is None],
        decided=[row for row in report.rows if row.policy is not None],
        not_run=[(cut, attack) for cut, leakage in attacked for attack in leakage.not_run],
        leaks=(Verdict.LEAKS, Verdict.PARTLY),
        bounded=Verdict.BOUNDED,
        plot=tradeoff_svg(report),
        simulated=any(row.simulated_s_per_round is not None for row in report.rows),
    )


def _png(pixels: Pixels) -> str:
    """A picture as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(shown(pixels)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
