"""Figures to inline SVG whose colours are the page's CSS variables, so that they fit light, dark and print.

matplotlib is loaded when the first figure is made. Figures are drawn without pyplot and without mathematics in texts:
a label may hold anything.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that matplotlib writes and the page's variables that take their place.
_VARIABLES = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--base)",
    "#000005": "var(--few)",
    "#000006": "var(--tuned)",
    "#000007": "var(--paper)",
}
INK, MUTED, LINE, BASE, FEW, TUNED, PAPER = _VARIABLES
WIDTH_INCHES = 6.2
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "tunesmith",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture with its title, what it shows in words, and the SVG element."""

    name: str
    title: str
    caption: str
    svg: str


def new_figure(height_inches: float) -> Figure:
    """An empty figure of the page's width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")


def styled() -> AbstractContextManager[None]:
    """matplotlib's settings for every figure: hold it open from the first line drawn to the last."""
    import matplotlib as mpl

    return mpl.rc_context(_SETTINGS)  # type: ignore[arg-type]


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element without prolog, metadata or anything that points outside."""
    buffer = io.StringIO()
    with styled(), warnings.catch_warnings():
        # Texts are shown in the reader's font; that matplotlib's own lacks a letter only blurs the layout.
        warnings.simplefilter("ignore", UserWarning)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    rest = rest.replace("xlink:href=", "href=")
    rest = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", rest)
    rest = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*", "font-family: system-ui, sans-serif", rest)
    for stand_in, variable in _VARIABLES.items():
        rest = rest.replace(stand_in, variable)
    label = escape(description, quote=True)
    return f'<svg role="img" aria-label="{label}" {box.group() if box else ""}>{rest.strip()}'


def finish(name: str, title: str, caption: str, figure: Figure) -> Picture:
    """The figure as a picture; ``name`` keeps its ids apart from other pictures' on the page."""
    return Picture(name, title, caption, _svg(figure, name, f"{title}. {caption}"))
