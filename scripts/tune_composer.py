"""Makes the melodies of the sample tunes: motifs over chords, and phrases that ask and answer."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

LETTERS = "CDEFGAB"
# From three steps below the keynote to a tenth above it, and nothing over the high b, as on a fiddle in first position.
LOWEST, HIGHEST, TOP = -3, 9, 13
WIDEST_LEAP = 7
# The second part lies higher than the first.
REGISTERS = (range(6), range(4, 9))

Item = TypeVar("Item")
Frames = Mapping[str, Any]


class UnfitError(Exception):
    """What was drawn makes no tune of this sample."""


class Draw:
    """Draws by ``random()`` alone: no other method is promised to give the same in every version of Python."""

    def __init__(self, seed: str) -> None:
        self.numbers = random.Random(seed)

    def one_of(self, items: Sequence[Item]) -> Item:
        """One of a sequence, each as likely as the others."""
        return items[int(self.numbers.random() * len(items))]

    def mixed(self, items: Sequence[Item]) -> list[Item]:
        """All of a sequence in another order."""
        return sorted(items, key=lambda _: self.numbers.random())


@dataclass(frozen=True)
class Bar:
    """A bar in ABC notation, and its notes as steps of the scale above middle C."""

    text: str
    notes: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """A part of a bar: its rhythm, the moves between its notes, and where its first note leans from the one before."""

    rhythm: str
    kind: str
    moves: Sequence[int]
    lean: int


@dataclass(frozen=True)
class Motif:
    """What bars of one letter have in common; over another chord the notes differ."""

    anchor: int
    cells: Sequence[Cell]


class Composer:
    """Makes the phrases of one dance in one key."""

    def __init__(self, frames: Frames, dance_name: str, mode: str, key: str) -> None:
        self.frames = frames
        self.dance_name = dance_name
        self.dance: Frames = frames["dances"][dance_name]
        self.mode: Frames = frames["modes"][mode]
        self.key = key
        self.tonic = LETTERS.index(key[0])

    def parts(self, draw: Draw) -> tuple[list[list[Bar]], list[list[Bar]]]:
        """The phrases of the first and the second part.

        Raises:
            UnfitError: a note lies too high or too low, or too far from the one before, or a bar has one note only.
        """
        size = draw.one_of(self.dance["bars"])
        question, answer = self.pair(size, self.mode["first"], REGISTERS[0], draw)
        other, other_answer = self.pair(size, self.mode["second"], REGISTERS[1], draw)
        back = draw.one_of(self.frames["forms"]) == "aaba"
        first, second = [question, answer], [other, answer if back else other_answer]
        notes = [note for phrase in first + second for bar in phrase for note in bar.notes]
        if min(notes) < self.tonic + LOWEST or max(notes) > min(self.tonic + HIGHEST, TOP):
            raise UnfitError
        if any(abs(after - before) > WIDEST_LEAP for before, after in pairwise(notes)):
            raise UnfitError
        if any(len(set(bar.notes)) < 2 for phrase in first + second for bar in phrase[:-1]):
            raise UnfitError
        return first, second

    def pair(
        self, size: int, progressions: Sequence[Sequence[int]], register: range, draw: Draw
    ) -> tuple[list[Bar], list[Bar]]:
        """An open phrase, and the closed one that begins like it.

        In phrases of four bars the third bar leads to the keynote the second time.
        """
        chords = draw.one_of(progressions)[: size - 1]
        plan = draw.one_of(self.frames["plans"])
        motifs = {letter: self.motif(register, draw) for letter in "abc"}
        bars = [self.laid(motifs[letter], chord) for letter, chord in zip(plan, chords, strict=False)]
        question = [*bars, self.rest(bars[-1], draw.one_of(self.dance["open"]), draw.one_of(self.mode["half"]), draw)]
        if size == 4:
            bars[-1] = self.laid(motifs[draw.one_of("abc")], draw.one_of(self.mode["before"]))
        answer = [*bars, self.rest(bars[-1], draw.one_of(self.dance["closed"]), 1, draw)]
        return question, answer

    def motif(self, register: range, draw: Draw) -> Motif:
        """Rhythms and moves for the cells of a bar."""
        cells = []
        for _ in range(self.dance["in_bar"]):
            kind = draw.one_of(("scale", "chord"))
            moves = draw.one_of(self.frames["moves"][kind])
            cells.append(Cell(draw.one_of(self.dance["cells"]), kind, moves, draw.one_of((-2, -1, 1, 2))))
        return Motif(self.tonic + draw.one_of(register), cells)

    def laid(self, motif: Motif, chord: int) -> Bar:
        """A motif over a chord: every cell begins on a note of it."""
        tones = {(self.tonic + chord - 1 + step) % 7 for step in (0, 2, 4)}
        at = motif.anchor
        texts = []
        notes: list[int] = []
        for cell in motif.cells:
            at = nearest(at + cell.lean, tones)
            cell_notes = [at]
            for move in cell.moves[: cell.rhythm.count("n") - 1]:
                at = at + move if cell.kind == "scale" else along(at, move, tones)
                cell_notes.append(at)
            texts.append(filled(cell.rhythm, cell_notes))
            notes += cell_notes
        return Bar(" ".join(texts), tuple(notes))

    def rest(self, before: Bar, rhythm: str, degree: int, draw: Draw) -> Bar:
        """The bar in which a phrase comes to rest on a degree of the scale, the nearest one."""
        goal = nearest(before.notes[-1], {(self.tonic + degree - 1) % 7})
        leading = rhythm.count("n")
        approach = draw.one_of(self.frames["approaches"])
        notes = [*(goal + step for step in approach[len(approach) - leading :]), *[goal] * rhythm.count("t")]
        return Bar(filled(rhythm, notes), tuple(notes))


def nearest(note: int, letters: Collection[int]) -> int:
    """The nearest note of some letters (C is 0), the lower of two."""
    return next(near for far in range(7) for near in (note - far, note + far) if near % 7 in letters)


def along(note: int, move: int, tones: Collection[int]) -> int:
    """The note that lies some notes of a chord higher, or lower."""
    step = 1 if move > 0 else -1
    for _ in range(abs(move)):
        note = next(near for near in range(note + step, note + 8 * step, step) if near % 7 in tones)
    return note


def filled(rhythm: str, notes: Sequence[int]) -> str:
    """A rhythm with its notes."""
    remaining = iter(notes)
    return re.sub("[nt]", lambda _: pitch(next(remaining)), rhythm)


def pitch(note: int) -> str:
    """A note in ABC notation: small letters from the c above middle C, commas below that C, apostrophes higher up."""
    octave, letter = divmod(note, 7)
    name = LETTERS[letter]
    return name + "," * -octave if octave <= 0 else name.lower() + "'" * (octave - 1)
