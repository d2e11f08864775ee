"""What the audit found, for a terminal: named checks, lengths, labels, and rows with what trains in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tunesmith.cli.progress import open_view, showing
from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import clean, has_colour, out, paint
from tunesmith.cli.words import count, number
from tunesmith.jobs.stages import AuditResult, audit

FIRST_PROBLEMS = 5
_BAR = 30
_MOST_LABELS = 12


def run_audit(recipe_yaml: str, runs_folder: Path, show: int = 0) -> AuditResult:
    """Audit a recipe with progress on stderr; errors as in :func:`tunesmith.jobs.stages.audit`."""
    with open_view() as view:
        return audit(recipe_yaml, showing(view), show=show, runs_folder=runs_folder)


def print_audit(found: Mapping[str, Any]) -> None:
    """Print checks, tokens and the rows that were asked for; what the files themselves say is not repeated."""
    print_checks(found.get("checks") or [])
    tokens = found.get("tokens") or {}
    if tokens:
        out()
        out(
            f"{count(int(tokens.get('total') or 0), 'token')}, {number(tokens.get('trained'))} of them trained; "
            f"a row has {number(_rounded(tokens.get('mean')))} on average, {number(tokens.get('longest'))} at most"
        )
        print_histogram(tokens.get("histogram") or [])
    overlap = found.get("overlap")
    if overlap:
        out()
        out(
            f"held-out rows that are also training rows: {number(overlap.get('exact'))}, "
            f"with the same prompt: {number(overlap.get('same_prompt'))}"
        )
    for row in found.get("shown") or []:
        print_row(row)


def print_checks(checks: list[Mapping[str, Any]]) -> None:
    """Print each named check with ok or FAILED, and the first problems of the failed ones."""
    out("checks", "bold")
    for check in checks:
        ok = bool(check.get("ok"))
        mark = Cell("ok", "green") if ok else Cell("FAILED", "red")
        detail = clean(str(check.get("detail") or ""))
        text = f"{check.get('name')}: {detail}" if detail else str(check.get("name"))
        print_table([Column(""), Column("", wrap=True)], [[Cell(mark.text.ljust(6), mark.style), text]], "  ")
        problems = check.get("problems") or []
        for problem in problems[:FIRST_PROBLEMS]:
            out(f"          {clean(str(problem.get('place')))}: {clean(str(problem.get('message')))}")
        if len(problems) > FIRST_PROBLEMS:
            out(f"          and {len(problems) - FIRST_PROBLEMS:,} more")


def print_histogram(bins: list[Mapping[str, Any]]) -> None:
    """Print how many rows have up to so many tokens."""
    most = max((int(item.get("rows") or 0) for item in bins), default=0)
    if not most:
        return
    out()
    out("tokens in a row", "bold")
    rows: list[list[str | Cell]] = []
    for item in bins:
        rows_here = int(item.get("rows") or 0)
        bar = "█" * max(round(_BAR * rows_here / most), 1 if rows_here else 0)
        rows.append([f"to {int(item.get('up_to') or 0):,}", f"{rows_here:,}", Cell(bar, "cyan")])
    print_table([Column("", right=True), Column("", right=True), Column("")], rows, "  ")


def print_labels(labels: Mapping[str, int]) -> None:
    """Print the most frequent labels and the rarest one."""
    if not labels:
        return
    ordered = sorted(labels.items(), key=lambda item: -item[1])
    total = sum(labels.values())
    out()
    out(f"{count(len(labels), 'label')}", "bold")
    shown = ordered if len(ordered) <= _MOST_LABELS else [*ordered[: _MOST_LABELS - 2], *ordered[-1:]]
    rows = [[label, f"{rows:,}", f"{100 * rows / total:.1f} %"] for label, rows in shown]
    if len(shown) < len(ordered):
        rows.insert(-1, [f"... {len(ordered) - len(shown):,} more", "", ""])
    print_table([Column("", wrap=True), Column("", right=True), Column("", right=True)], rows, "  ")


def print_row(row: Mapping[str, Any]) -> None:
    """Print a row as the model sees it: trained tokens green, or in brackets where there is no colour.

    Labels of a head stand behind their tokens.
    """
    out()
    place = clean(str(row.get("place") or ""))
    out(f"{place}, an answer to be avoided" if row.get("avoided") else place, "bold")
    colour = has_colour(sys.stdout)
    text = ""
    for (trained, label), pieces in groupby(row.get("pieces") or [], _mark):
        plain = clean("".join(str(piece.get("text") or "") for piece in pieces)) + (f" = {clean(label)}" * bool(label))
        if not trained:
            text += plain
        elif colour:
            # Each line is painted by itself, so that a pager that starts in the middle still shows it.
            text += "\n".join(paint(part, "green", sys.stdout) for part in plain.split("\n"))
        else:
            text += f"⟦{plain}⟧"
    for line in text.rstrip("\n").split("\n"):
        out(f"  {line}")


def _mark(piece: Mapping[str, Any]) -> tuple[bool, str]:
    return bool(piece.get("trained")), str(piece.get("label") or "")


def _rounded(value: Any) -> Any:
    return round(value) if isinstance(value, float) else value
