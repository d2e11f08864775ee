"""``tunesmith doctor``: look at this machine and the installation. It never fails; it flags."""

from __future__ import annotations

from dataclasses import asdict

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson
from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import out, out_json

app = new_app()


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Look at this machine and the installation: versions, cores, memory, disk, torch, caches, the hub."""
    from tunesmith.cli.machine import look_at_machine

    findings = look_at_machine()
    problems = [finding for finding in findings if not finding.ok]
    if as_json:
        out_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
        return
    rows: list[list[str | Cell]] = [
        [Cell("ok", "green") if finding.ok else Cell("!", "yellow"), finding.name, finding.value]
        for finding in findings
    ]
    print_table([Column(""), Column(""), Column("", wrap=True)], rows)
    hints = [finding for finding in findings if finding.hint]
    if hints:
        out()
    for finding in hints:
        out(f"{finding.name}: {finding.hint}", None if finding.ok else "yellow")
