"""A page as one self-contained HTML file: no script, no request, every text of the data escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tunesmith.evaluation.report.layout import Page
from tunesmith.evaluation.report.svg import Picture

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # HTML has no place for control characters: shown as a replacement, they cannot act on a terminal or a parser.
    environment.filters["shown"] = lambda text: _CONTROL.sub("\ufffd", text)
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))


def to_html(page: Page, pictures: Sequence[Picture]) -> str:
    """The page with its pictures. The SVG elements are trusted: matplotlib escapes the texts within."""
    drawn = [(picture, Markup(_CONTROL.sub("\ufffd", picture.svg))) for picture in pictures]  # noqa: S704
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return _template().render(page=page, pictures=drawn, style=Markup(style))  # noqa: S704
