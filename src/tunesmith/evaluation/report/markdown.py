"""A page as Markdown that survives whatever the data holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.evaluation.report.layout import Cell, Page, ShownSample, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029]")
_BLOCK_START = re.compile(r"^(\s*\d*)([-+.)=])(?=\s|[-+=]|$)")


def escape(text: str) -> str:
    """One line of Markdown that shows the text as it is; line breaks become spaces."""
    line = " ".join(_printable(text).split("\n"))
    return _BLOCK_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", line))


def _printable(text: str) -> str:
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def fence(text: str) -> str:
    """A code block that no run of backticks within the text can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}text\n{_printable(text)}\n{mark}"


def to_markdown(page: Page) -> str:
    """The page as GitHub-flavoured Markdown, in the order of the HTML page."""
    parts = [f"# {escape(page.title)}", f"**{escape(page.verdict)}**"]
    if page.verdict_detail:
        parts.append(escape(page.verdict_detail))
    parts.extend(f"> {escape(alert)}" for alert in page.alerts)
    if page.results.rows:
        parts.extend(["## Before and after", table(page.results), "Ranges are 95 % bootstrap intervals."])
    parts.append("\n".join(f"- {escape(name)}: {escape(value)}" for name, value in page.facts))
    if page.samples:
        parts.append("## Sample answers")
        parts.extend(_sample(sample) for sample in page.samples)
    for section in page.sections:
        parts.append(f"## {escape(section.title)}")
        if section.note:
            parts.append(escape(section.note))
        parts.append(table(section.table))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(content: Table) -> str:
    """A pipe table; a cell's note follows its text in brackets."""
    rules = ["---:" if column in content.numeric else "---" for column in range(len(content.headings))]
    lines = [_line([escape(heading) for heading in content.headings]), _line(rules)]
    lines.extend(_line([_cell(cell) for cell in row]) for row in content.rows)
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    note = f" ({escape(cell.note)})" if cell.note and cell.text else escape(cell.note)
    return f"{escape(cell.text)}{note}"


def _sample(sample: ShownSample) -> str:
    parts = [f"### {escape(sample.place)}", "Prompt:", fence(sample.prompt)]
    if sample.reference is not None:
        parts.extend(["Expected:", fence(sample.reference)])
    for answer in sample.answers:
        mark = f" ({escape(answer.mark)})" if answer.mark else ""
        parts.extend([f"{escape(answer.system)}{mark}:", fence(answer.text)])
    return "\n\n".join(parts)
