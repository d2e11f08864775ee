"""Music in ABC notation: a parser that says what is wrong with a tune, and whether its bars are as long as its meter.

Read is the part of the standard that tunes of one voice use (https://abcnotation.com/wiki/abc:standard:v2.1): the
header, notes with lengths, rests, chords, grace notes, tuplets, broken rhythm, ties and slurs, bars, repeats and
endings, decorations, annotations, inline fields, words and comments. Kept libraries read more (music21) but repair
what is wrong in silence, while what is wrong is what is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from tunesmith.evaluation.metrics.types import Rows, check_rows, divide, mean_rows

MOST_CHARACTERS = 50_000
# Longer numbers are no lengths of notes, and fractions of them would take for ever.
_DIGITS = r"\d{0,4}"
_LENGTH = rf"(?P<times>{_DIGITS})(?P<slashes>/{{0,4}})(?P<parts>{_DIGITS})"
_NOTE = re.compile(rf"(?P<pitch>(?:\^{{1,2}}|_{{1,2}}|=)?[A-Ga-g][,']*|[zx]){_LENGTH}")
_CHORD = re.compile(rf"\[(?P<inside>(?:[_^=]*[A-Ga-g][,']*{_DIGITS}/{{0,4}}{_DIGITS}|[\s.~\-])+)\]{_LENGTH}")
_BAR = re.compile(r":*\|+[\]:]*(?:\[?\d[\d,\-]*)?|::|:\||\[\||\[\d[\d,\-]*")
_SKIPPED = re.compile(
    r'\{[^{}\n]*\}|"[^"\n]*"|![^!\s|\]]{1,30}!|\+[a-z]{1,20}\+|\[[A-Za-z]:[^\]\n]*\]|[\s\-()&\\`$*.~!uvHLMOPSTyj]'
)
_TUPLET = re.compile(r"\((?P<p>[2-9])(?::(?P<q>\d?))?(?::(?P<r>\d?))?")
_BROKEN = re.compile(r"[<>]{1,3}")
_BARS_OF_REST = re.compile(rf"[ZX]{_DIGITS}")
_FIELD = re.compile(r"(?P<name>[A-Za-z+]):(?P<value>.*)")
_METER = re.compile(r"(?P<above>\d{1,2}(?:\+\d{1,2})*)\s*/\s*(?P<below>\d{1,2})")
_COUNTS_IN_TIME_OF = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}


@dataclass
class Tune:
    """A tune as it was read.

    Attributes:
        headers: The fields before the body, the first of each name.
        bars: Length of each bar with notes, in whole notes, with what it should be (None without a meter), and whether
            it may be shorter, since it stands at an end of a part.
        notes: Count of notes and rests.
        problems: What is wrong, in words.
    """

    headers: dict[str, str] = field(default_factory=dict)
    bars: list[tuple[Fraction, Fraction | None, bool]] = field(default_factory=list)
    notes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong with the notation; bars of another length are counted apart."""
        return not self.problems

    @property
    def fitting_bars(self) -> int:
        """Bars as long as the meter says, or shorter where that is usual; all count where there is no meter."""
        return sum(
            wanted is None or length == wanted or (length < wanted and short) for length, wanted, short in self.bars
        )


def parse_abc(text: str) -> Tune:
    """Read the first tune of a text. Nothing is raised, whatever the text is: see :attr:`Tune.problems`."""
    tune = Tune()
    if len(text) > MOST_CHARACTERS:
        tune.problems.append(f"longer than {MOST_CHARACTERS:,} characters")
        return tune
    lines = [line.partition("%")[0].rstrip() for line in text.strip().splitlines()]
    body = _read_header(tune, lines)
    reader = _Reader(tune)
    for line in body:
        found = _FIELD.fullmatch(line)
        if found:
            reader.field(found["name"], found["value"].strip())
        else:
            reader.line(line)
    reader.end()
    if not tune.notes:
        tune.problems.append("there are no notes")
    return tune


def _read_header(tune: Tune, lines: Sequence[str]) -> Sequence[str]:
    """Take the header, which starts with X: and ends with K:; the rest is the body."""
    for number, line in enumerate(lines):
        found = _FIELD.fullmatch(line)
        if line and found is None:
            tune.problems.append("a line before the key is no field")
            return lines[number:]
        if found is None:
            continue
        if not tune.headers and found["name"] != "X":
            tune.problems.append("the first field is not X:")
        tune.headers.setdefault(found["name"], found["value"].strip())
        if found["name"] == "K":
            if not re.match(r"[A-G]|none|HP|Hp|$", found["value"].strip()):
                tune.problems.append("the key is none that there is")
            return lines[number + 1 :]
    tune.problems.append("there is no key (K:)")
    return ()


def meter_length(meter: str) -> Fraction | None:
    """The length of a bar in whole notes; None for free meter.

    Raises:
        ValueError: It is no meter.
    """
    meter = meter.strip()
    if meter in ("C", "C|"):
        return Fraction(1)
    if meter.lower() in ("none", ""):
        return None
    found = _METER.fullmatch(meter)
    if found is None or not int(found["below"]):
        raise ValueError(meter)
    return Fraction(sum(map(int, found["above"].split("+"))), int(found["below"]))


class _Reader:
    """Reads the body, one line after another."""

    def __init__(self, tune: Tune) -> None:
        self.tune = tune
        self.bar: Fraction | None = None
        self.unit = Fraction(1, 8)
        self.length = Fraction(0)
        self.has_notes = False
        self.part_starts = True
        self.tuplet: tuple[Fraction, int] = (Fraction(1), 0)
        self.broken: Fraction | None = None
        self.last: Fraction | None = None
        self.field("M", tune.headers.get("M", "none"))
        if self.bar is not None and self.bar < Fraction(3, 4):
            self.unit = Fraction(1, 16)
        if "L" in tune.headers:
            self.field("L", tune.headers["L"])

    def problem(self, text: str) -> None:
        if text not in self.tune.problems:
            self.tune.problems.append(text)

    def field(self, name: str, value: str) -> None:
        """A field of the header or the body that changes how bars are counted."""
        if name == "M":
            try:
                self.bar = meter_length(value)
            except ValueError:
                self.problem("the meter (M:) cannot be read")
        elif name == "L":
            found = re.fullmatch(r"(\d{1,3})(?:\s*/\s*(\d{1,3}))?", value)
            if found is None or not int(found[1]) or not int(found[2] or 1):
                self.problem("the unit of length (L:) cannot be read")
            else:
                self.unit = Fraction(int(found[1]), int(found[2] or 1))

    def line(self, line: str) -> None:
        """One line of music."""
        at = 0
        while at < len(line):
            at = self._token(line, at)

    def _token(self, line: str, at: int) -> int:
        """Read what stands at a place; returns where it ends."""
        if inline := re.compile(r"\[([MLK]):([^\]\n]*)\]").match(line, at):
            self.field(inline[1], inline[2].strip())
            return inline.end()
        if tuplet := _TUPLET.match(line, at):
            count = int(tuplet["p"])
            in_time_of = int(tuplet["q"] or _COUNTS_IN_TIME_OF.get(count, 2))
            self.tuplet = (Fraction(in_time_of, count), int(tuplet["r"] or count))
            return tuplet.end()
        if bar := _BAR.match(line, at):
            self._end_bar(bar.group())
            return bar.end()
        if sound := _CHORD.match(line, at) or _NOTE.match(line, at):
            self._sound(sound)
            return sound.end()
        if rest := _BARS_OF_REST.match(line, at):
            self.tune.notes += 1
            return rest.end()
        if broken := _BROKEN.match(line, at):
            self._break(broken.group())
            return broken.end()
        if skipped := _SKIPPED.match(line, at):
            return skipped.end()
        self.problem("characters that are no notation, such as words")
        return at + 1

    def _sound(self, found: re.Match[str]) -> None:
        times, slashes, parts = found["times"], found["slashes"], found["parts"]
        below = int(parts) if parts else 2 ** len(slashes)
        if not below or times == "0" or (parts and not slashes):
            self.problem("a length of a note cannot be read")
            return
        length = self.unit * Fraction(int(times or 1), below)
        inside = found.groupdict().get("inside")
        if inside is not None and (first := _NOTE.search(inside)) and first["times"]:
            length *= int(first["times"])
        factor, left = self.tuplet
        if left:
            length *= factor
            self.tuplet = (factor, left - 1)
        if self.broken is not None:
            length *= self.broken
            self.broken = None
        self.length += length
        self.last = length
        self.has_notes = True
        self.tune.notes += 1

    def _break(self, marks: str) -> None:
        if self.last is None or self.broken is not None or len(set(marks)) > 1:
            self.problem("a broken rhythm without a note before it")
            return
        short = Fraction(1, 2 ** len(marks))
        before, after = (2 - short, short) if marks[0] == ">" else (short, 2 - short)
        self.length += self.last * (before - 1)
        self.broken, self.last = after, None

    def _end_bar(self, mark: str) -> None:
        if self.broken is not None:
            self.problem("a broken rhythm without a note behind it")
            self.broken = None
        part_ends = mark != "|"
        if self.has_notes:
            self.tune.bars.append((self.length, self.bar, self.part_starts or part_ends))
            self.part_starts = part_ends
        else:
            self.part_starts = self.part_starts or part_ends
        self.length, self.has_notes, self.last = Fraction(0), False, None
        self.tuplet = (Fraction(1), 0)

    def end(self) -> None:
        """The end of the tune, which ends a bar too."""
        self._end_bar("|]")


def _tunes(predictions: Sequence[str], references: Sequence[Any]) -> list[Tune]:
    check_rows(predictions, references)
    return [parse_abc(_whole(answer, reference)) for answer, reference in zip(predictions, references, strict=True)]


def _whole(answer: str, reference: Any) -> str:
    """The tune with the header that was given, if it was."""
    opening = reference.get("opening") if isinstance(reference, Mapping) else None
    return f"{opening}\n{answer}" if opening else answer


def abc_valid_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each answer, behind its given header, is a tune without a fault in the notation."""
    return mean_rows([float(tune.valid) for tune in _tunes(predictions, references)])


def abc_bars_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Per row: bars as long as the meter says, bars. A tune with faults has one bar, which does not fit."""
    tunes = _tunes(predictions, references)
    right = np.array([tune.fitting_bars if tune.valid else 0 for tune in tunes], dtype=np.float64)
    bars = np.array([len(tune.bars) if tune.valid else 1 for tune in tunes], dtype=np.float64)
    return Rows(np.stack([right, bars], axis=1), divide(right, bars))


def abc_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """How many tunes have each fault."""
    tunes = _tunes(predictions, references)
    counts: dict[str, int] = {}
    for tune in tunes:
        for problem in tune.problems:
            counts[problem] = counts.get(problem, 0) + 1
    invalid = sum(not tune.valid for tune in tunes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "invalid": invalid,
        "format_valid": 1 - invalid / len(tunes),
        "faults": [{"fault": fault, "rows": rows} for fault, rows in ordered[:20]],
    }
