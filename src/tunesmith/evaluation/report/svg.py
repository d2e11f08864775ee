"""Figures to inline SVG whose colours are the page's CSS variables, so that they fit light, dark and print.

matplotlib is loaded when the first figure is made. Figures are drawn without pyplot and without mathematics in texts:
a label may hold anything.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that matplotlib writes and the page's variables that take their place.
VARIABLES: Mapping[str, str] = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--base)",
    "#000005": "var(--few)",
    "#000006": "var(--tuned)",
    "#000007": "var(--paper)",
}
INK, MUTED, LINE, BASE, FEW, TUNED, PAPER = VARIABLES
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


def styled(colours: Mapping[str, str] | None = None) -> AbstractContextManager[None]:
    """matplotlib's settings for every figure: hold it open from the first line drawn to the last.

    ``colours`` take the place of the stand-ins where a picture is not for a page.
    """
    import matplotlib as mpl

    found = {key: (colours or {}).get(value, value) for key, value in _SETTINGS.items()}
    return mpl.rc_context(found)  # type: ignore[arg-type]


def page_colours() -> list[str]:
    """The page's blocks of colours as CSS: light, dark, print."""
    css = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return re.findall(r":root \{[^}]*\}", css)


def light_colours() -> dict[str, str]:
    """What each stand-in is on a light page."""
    named = dict(re.findall(r"(--[\w-]+): (#\w+)", page_colours()[0]))
    return {
        stand_in: named[variable.removeprefix("var(").removesuffix(")")] for stand_in, variable in VARIABLES.items()
    }


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
    for stand_in, variable in VARIABLES.items():
        rest = rest.replace(stand_in, variable)
    label = escape(description, quote=True)
    return f'<svg role="img" aria-label="{label}" {box.group() if box else ""}>{rest.strip()}'


def finish(name: str, title: str, caption: str, figure: Figure) -> Picture:
    """The figure as a picture; ``name`` keeps its ids apart from other pictures' on the page."""
    return Picture(name, title, caption, _svg(figure, name, f"{title}. {caption}"))
