"""What the scripts that write bundled samples share: mixed order, JSON lines, writing or checking the files."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_or_check(sample: str, folder: Path, make: Callable[[], Mapping[str, str]]) -> int:
    """The command line of a script: write the files of a sample, or with ``--check`` compare them.

    Args:
        sample: The sample's name; the script that is run is ``scripts/make_SAMPLE.py``.
        folder: Where the files lie.
        make: Gives the text of each file by its name.

    Returns:
        The exit code; 1 when a file is only checked and not current.
    """
    parser = argparse.ArgumentParser(description=f"Write the rows of the sample {sample}.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    stale = []
    for name, text in make().items():
        path = folder / name
        if path.exists() and path.read_bytes() == text.encode():
            continue
        stale.append(name)
        if not options.check:
            path.write_bytes(text.encode())
    if stale:
        command = f"not current, run `python scripts/make_{sample}.py`"
        print(f"{command if options.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and options.check else 0


def json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    """One JSON object a line."""
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def in_mixed_order(filled: Sequence[Sequence[T]], seed: int) -> list[T]:
    """The first filling of every frame in mixed order, then the second of every frame, and so on."""
    draw = random.Random(seed)
    rows = []
    for turn in range(len(filled[0])):
        order = list(range(len(filled)))
        draw.shuffle(order)
        rows += [filled[index][turn] for index in order]
    return rows
