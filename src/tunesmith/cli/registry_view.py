"""Versions of the registry on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.cli.tables import Cell, Column, print_table
from tunesmith.cli.terminal import out
from tunesmith.cli.words import NOTHING, number, storage
from tunesmith.registry.versions import Version

_HASH_CHARACTERS = 12


def print_versions(found: Sequence[Mapping[str, Any]]) -> None:
    """One line a version."""
    rows: list[list[str | Cell]] = []
    for version in found:
        record = version["record"] or {}
        rows.append(
            [
                version["address"],
                version["state"],
                ", ".join(version["labels"]),
                str((record.get("technique") or {}).get("name") or NOTHING),
                _moved(record),
                storage(version["size_bytes"]),
                str(len(version["references"]) or ""),
                str(record.get("created") or "")[:10],
            ]
        )
    columns = [Column("version"), Column("state"), Column("stages, aliases", wrap=True), Column("technique")]
    columns += [Column("metric, base to tuned", wrap=True), Column("size", right=True), Column("used by", right=True)]
    print_table([*columns, Column("registered")], rows)


def print_version(data: Mapping[str, Any], chain: Sequence[Version]) -> None:
    """All that is known of a version; ``chain`` leads from it to its oldest parent."""
    record = data["record"] or {}
    out(data["address"], "bold")
    steps = data["checkpoints"]
    rows = [
        ("state", data["state"] if data["run_state"] is None else f"{data['state']}, the run is {data['run_state']}"),
        ("stages, aliases", ", ".join(data["labels"])),
        ("description", record.get("description")),
        ("made from", _origin(data, record)),
        ("technique", (record.get("technique") or {}).get("name")),
        ("task", record.get("task")),
        ("steps", number(record["step"]) if record.get("step") else None),
        ("size", storage(data["size_bytes"]) if data["size_bytes"] else None),
        ("verdict", record.get("verdict")),
        ("checkpoints", ", ".join(f"{data['address']}@{step}" for step in steps["kept"])),
        ("of the run", ", ".join(f"{data['address']}@{step}" for step in steps["available"])),
    ]
    print_table([Column(""), Column("", wrap=True)], [[name, str(value)] for name, value in rows if value], "  ")
    if record.get("metrics"):
        out()
        _print_metrics(record)
    out()
    out("lineage", "bold")
    for depth, line in enumerate(_lineage(chain)):
        out(f"  {'   ' * depth}{'' if depth == 0 else '└─ '}{line}")
    if data["references"]:
        out()
        out("used by", "bold")
        print_table(
            [Column(""), Column("", wrap=True), Column(""), Column("")],
            [[one["kind"], one["who"], one["since"][:10], one["id"]] for one in data["references"]],
            "  ",
        )


def _print_metrics(record: Mapping[str, Any]) -> None:
    systems = list(record["metrics"])
    names = list(dict.fromkeys(name for system in systems for name in record["metrics"][system]))
    names.sort(key=lambda name: name != record.get("primary_metric"))
    columns = [Column("metric"), *(Column(system.replace("_", " "), right=True) for system in systems)]
    rows = [[name, *(_interval(record["metrics"][system].get(name)) for system in systems)] for name in names]
    print_table(columns, rows, "  ")


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None or value.get("value") is None:
        return NOTHING
    shown = number(value["value"])
    low, high = value.get("low"), value.get("high")
    return shown if low is None or high is None else f"{shown} ({number(low)} to {number(high)})"


def _moved(record: Mapping[str, Any]) -> str:
    name, metrics = record.get("primary_metric"), record.get("metrics") or {}
    before, after = (metrics.get(system, {}).get(name, {}).get("value") for system in ("base", "tuned"))
    return "" if name is None or after is None else f"{name} {number(before)} to {number(after)}"


def _origin(data: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    origin = record.get("origin") or {"kind": "run", "name": data["run"]}
    return f"{origin['kind']} {origin['name']}"


def _lineage(chain: Sequence[Version]) -> list[str]:
    """The version, its parents, the base at the end, and the data of each."""
    lines = [_one(version) for version in chain]
    record = chain[-1].record
    if record is None:
        return lines
    base = record.base
    if record.parent is not None:
        lines.append(f"{record.parent} (not in this registry any more)")
    elif base is not None:
        state = f" at {base.revision[:_HASH_CHARACTERS]}" if base.revision else ""
        licence = f", {base.licence}" if base.licence else ", licence not known"
        kept = ", copied" if base.copied else ""
        lines.append(f"{base.name}{state}{licence}{kept}")
    return lines


def _one(version: Version) -> str:
    record = version.record
    if record is None:
        return f"{version.address} (training)"
    files = ", ".join(f"{file.name} {file.sha256[:_HASH_CHARACTERS]}" for file in record.train.files)
    return f"{version.address}" + (f", trained on {files}" if files else "")
