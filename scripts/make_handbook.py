"""Write the rows of the sample handbook from scripts/handbook_frames.yaml, or check that they are current.

python scripts/make_handbook.py            write train.jsonl and heldout.jsonl
python scripts/make_handbook.py --check    fail when one of them is not what the frames give
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from sample_writing import in_mixed_order, json_lines, write_or_check

ROOT = Path(__file__).resolve().parents[1]
FRAMES = ROOT / "scripts" / "handbook_frames.yaml"
FOLDER = ROOT / "src" / "tunesmith" / "samples" / "handbook"
SIDES = ("train", "heldout")
SEED = 20
# Held-out rows share no run of this many words with training rows.
RUN = 12
MOST_DRAWS = 2_000

Facts = Mapping[str, str | int]


def main() -> int:
    """Write or check the two files; returns the exit code."""
    return write_or_check("handbook", FOLDER, sample_files)


def sample_files() -> dict[str, str]:
    """The text of each file by its name."""
    content = yaml.safe_load(FRAMES.read_text(encoding="utf-8"))
    files = {}
    seen: set[tuple[str, ...]] = set()
    for side in SIDES:
        texts = sections(content, side, seen)
        seen.update(run for text in texts for run in runs(text))
        files[f"{side}.jsonl"] = json_lines({"text": text} for text in texts)
    return files


def sections(content: Mapping[str, Any], side: str, seen: set[tuple[str, ...]]) -> list[str]:
    """The sections of a side in the order of its file: one of every kind in mixed order, then one of every kind again.

    Args:
        content: What the file of frames holds.
        side: A key of :data:`SIDES`.
        seen: Runs of words of the other side, which these sections do without.
    """
    parts = facts_of_parts(content, side)
    filled = []
    for position, kind in enumerate(content["kinds"]):
        draw = random.Random(f"{SEED} {side} {kind['title']}")
        order = draw.sample(range(len(parts)), len(parts))
        remarks = in_turns(kind["remarks"][side], len(parts), draw)
        texts = []
        for part, remark in zip(order, remarks, strict=True):
            facts = {**parts[part], "section": position + 1}
            texts.append(new_section(kind, facts, remark, seen, draw))
        filled.append(texts)
    return in_mixed_order(filled, SEED)


def facts_of_parts(content: Mapping[str, Any], side: str) -> list[Facts]:
    """The facts of every part: those of its entry, its chapter, and its numbers.

    Each part has its own sequence of draws, so that a changed part leaves most of the others alone; numbers from a
    range are dealt out, since no two parts have the same code or shelf.
    """
    entries = content["parts"][side]
    first_chapter = 1 if side == "train" else 1 + len(content["parts"]["train"])
    numbers = content["numbers"][side]
    deal = random.Random(f"{SEED} {side}")
    dealt = {}
    for kind, choices in numbers.items():
        if isinstance(choices, str):
            first, last = choices.split(" to ")
            dealt[kind] = deal.sample(range(int(first), int(last) + 1), len(entries))
    facts: list[Facts] = []
    for index, entry in enumerate(entries):
        draw = random.Random(f"{SEED} {entry['part']}")
        drawn = {kind: draw.choice(choices) for kind, choices in numbers.items() if kind not in dealt}
        own = {kind: values[index] for kind, values in dealt.items()}
        code = f"{draw.choice(content['letters'])}-{own['mark']}"
        facts.append({**entry, **drawn, **own, "code": code, "chapter": first_chapter + index})
    return facts


def in_turns(remarks: Sequence[str], rows: int, draw: random.Random) -> list[str]:
    """A remark for each row: all of them in mixed order, then all once again."""
    rounds, rest = divmod(rows, len(remarks))
    if rest:
        raise ValueError(f"{len(remarks)} remarks do not go evenly into {rows} rows: {remarks[0]}")
    return [remark for _ in range(rounds) for remark in draw.sample(remarks, len(remarks))]


def new_section(
    kind: Mapping[str, Any], facts: Facts, remark: str, seen: set[tuple[str, ...]], draw: random.Random
) -> str:
    """A section with none of the runs of words that were seen."""
    for _ in range(MOST_DRAWS):
        text = section(kind, facts, remark, draw)
        if not seen.intersection(runs(text)):
            return text
    raise ValueError(f"every section of {facts['part']}, {kind['title']}, shares {RUN} words with the other side")


def section(kind: Mapping[str, Any], facts: Facts, remark: str, draw: random.Random) -> str:
    """A title, and below it a paragraph of one sentence of each group and the remark."""
    title = f"{{chapter}}.{{section}} {sentence_case(str(facts['part']))}: {kind['title']}".format_map(facts)
    sentences = [sentence_case(draw.choice(group).format_map(facts)) for group in kind["sentences"]]
    # A remark stands anywhere but in front, where a section says what it is about.
    sentences.insert(draw.randint(1, len(sentences)), remark)
    return f"{title}\n{' '.join(sentences)}"


def runs(text: str) -> list[tuple[str, ...]]:
    """All runs of :data:`RUN` words of a text; case and punctuation do not count, numbers are words."""
    words = re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())
    return [tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]


def sentence_case(text: str) -> str:
    """The text with a capital at its beginning, where a frame may begin with a fact."""
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
