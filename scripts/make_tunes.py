"""Write the rows of the sample tunes from scripts/tune_frames.yaml, or check that they are current.

python scripts/make_tunes.py            write train.jsonl and heldout.jsonl
python scripts/make_tunes.py --check    fail when one of them is not what the frames give
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from sample_writing import write_or_check
from tune_composer import Bar, Composer, Draw, Frames, UnfitError

ROOT = Path(__file__).resolve().parents[1]
FRAMES = ROOT / "scripts" / "tune_frames.yaml"
FOLDER = ROOT / "src" / "tunesmith" / "samples" / "tunes"
# A turn has every second pair of a dance and a key once; the next turn has the other pairs.
TURNS = {"train": 12, "heldout": 3}
SEED = 20
MOST_DRAWS = 2_000
CHARACTERS = range(150, 351)
# A model that knows its training tunes by heart finds no run of so many bars among the held-out ones.
RUN = 2


@dataclass
class Taken:
    """What no later tune may have again."""

    titles: set[str] = field(default_factory=set)
    first_parts: set[str] = field(default_factory=set)
    runs: set[tuple[str, ...]] = field(default_factory=set)


def main() -> int:
    """Write or check the two files; returns the exit code."""
    return write_or_check("tunes", FOLDER, sample_files)


def sample_files() -> dict[str, str]:
    """The text of each file by its name."""
    frames = yaml.safe_load(FRAMES.read_text(encoding="utf-8"))
    taken = Taken()
    files = {}
    number = 0
    for part, turns in TURNS.items():
        lines = []
        runs: set[tuple[str, ...]] = set()
        for dance, mode, key in mixed_pairs(frames, part, turns):
            number += 1
            composer = Composer(frames, dance, mode, key)
            text, bars = drawn_tune(composer, number, part, taken)
            runs.update(bar_runs(bars))
            lines.append(json.dumps({"text": text}))
        # Only the next file must not have them: tunes of one file may share a turn of phrase.
        taken.runs |= runs
        files[f"{part}.jsonl"] = "\n".join(lines) + "\n"
    return files


def mixed_pairs(frames: Frames, part: str, turns: int) -> Iterator[tuple[str, str, str]]:
    """The dance, mode and key of each tune, in mixed order within a turn."""
    keys = [(mode, key) for mode, entry in frames["modes"].items() for key in entry["keys"]]
    draw = Draw(f"{SEED} {part}")
    for turn in range(turns):
        pairs = [
            (dance, *key)
            for row, dance in enumerate(frames["dances"])
            for column, key in enumerate(keys)
            if (row + column + turn) % 2 == 0
        ]
        yield from draw.mixed(pairs)


def drawn_tune(composer: Composer, number: int, part: str, taken: Taken) -> tuple[str, list[list[str]]]:
    """A tune that fits and takes nothing that is taken, and the bars of its parts.

    Each tune has its own sequence of draws, so that a changed tune seldom changes the others.
    """
    draw = Draw(f"{SEED} {part} {number}")
    for _ in range(MOST_DRAWS):
        title = drawn_title(composer.frames["titles"], part, draw)
        try:
            first, second = composer.parts(draw)
        except UnfitError:
            continue
        bars = [[bar.text for phrase in phrases for bar in phrase] for phrases in (first, second)]
        text = written(composer, number, title, (first, second))
        opening = " ".join(bars[0])
        taken_already = title in taken.titles or opening in taken.first_parts or taken.runs & set(bar_runs(bars))
        if len(text) in CHARACTERS and not taken_already:
            taken.titles.add(title)
            taken.first_parts.add(opening)
            return text, bars
    raise ValueError(f"the frames do not allow tune {number}, a {composer.dance_name} in {composer.key}")


def drawn_title(titles: Frames, part: str, draw: Draw) -> str:
    """A title of this part's own things."""
    thing = draw.one_of(titles[part])
    thing2 = draw.one_of([one for one in titles[part] if one != thing])
    words = {
        "name": draw.one_of(titles["names"]),
        "manner": draw.one_of(titles["manners"]),
        "thing": thing,
        "thing2": thing2,
    }
    form: str = draw.one_of(titles["forms"])
    return form.format_map(words)


def bar_runs(parts: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Every run of bars within a part."""
    for bars in parts:
        for start in range(len(bars) - RUN + 1):
            yield tuple(bars[start : start + RUN])


def written(composer: Composer, number: int, title: str, parts: Sequence[Sequence[Sequence[Bar]]]) -> str:
    """The tune in ABC notation, four bars a line, each part repeated."""
    lines = [f"X:{number}", f"T:{title}", f"R:{composer.dance_name}", f"M:{composer.dance['meter']}", "L:1/8"]
    lines.append(f"K:{composer.key}")
    for phrases in parts:
        bars = [bar.text for phrase in phrases for bar in phrase]
        rows = ["|".join(bars[start : start + 4]) for start in range(0, len(bars), 4)]
        lines.append("|:" + "|\n".join(rows) + ":|")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
