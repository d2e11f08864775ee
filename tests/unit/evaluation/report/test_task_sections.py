"""What metrics tell beside their value stands in the report."""

from __future__ import annotations

from typing import Any

from tunesmith.evaluation.metrics import details
from tunesmith.evaluation.report.schema import parse_report
from tunesmith.evaluation.report.sections import sections


def shown(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, list[list[str]]]:
    systems = [{"name": name, "details": found} for name, found in (("base", base), ("tuned", tuned))]
    report = parse_report({"format": 1, "run": "r", "created": "now", "systems": systems})
    return {section.name: [[cell.text for cell in row] for row in section.table.rows] for section in sections(report)}


def test_kinds_of_requests() -> None:
    references = [({"name": "f", "arguments": {}},), ()]
    base, tuned = (details(["calls_match"], answers, references) for answers in (["no", "no"], ["[f()]", "no"]))
    assert shown(base, tuned)["per_kind"] == [
        ["no call", "100.0 %", "100.0 %", "1"],
        ["one call", "100.0 %", "0.0 %", "1"],
    ]


def test_faults_and_lengths() -> None:
    base, tuned = (details(["rouge_l"], answers, ["one two"]) for answers in ([""], ["one two"]))
    found = shown(base, tuned)
    assert found["faults"] == [["empty", "1", "0"]]
    assert found["lengths"] == [["base", "0", "2.00", "0"], ["tuned", "2.00", "2.00", "1.00"]]
