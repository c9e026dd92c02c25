"""The report as one self-contained HTML file."""

import base64
import io
from importlib import resources

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from lightning_sfl.report.plot import tradeoff_svg
from lightning_sfl.report.report import Interval, Pixels, Report
from lightning_sfl.report.units import bytes_text, flop_text, joule_text, seconds_text


def to_html(report: Report) -> str:
    """The report as an HTML text that refers to no other file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "bytes": bytes_text,
        "flop": flop_text,
        "seconds": seconds_text,
        "joule": joule_text,
        "interval": _interval,
        "png": _png,
    }
    template = resources.files("lightning_sfl.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        plot=tradeoff_svg(report),
        simulated=any(row.simulated_s_per_round is not None for row in report.rows),
    )


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _png(pixels: Pixels) -> str:
    """A picture as a data address: in colour by its first three channels, in grey by the first where it has fewer."""
    array = np.asarray(pixels, dtype=np.uint8)  # (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(array[..., :3] if array.shape[2] >= 3 else array[..., 0]).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
