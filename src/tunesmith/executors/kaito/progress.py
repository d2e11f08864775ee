"""What KAITO's trainer prints, read as steps.

Transformers prints a dictionary after each step and draws a bar meanwhile, over and over in one line:

      3%|▎         | 3/96 [00:04<02:11,  1.41s/it]
    {'loss': '1.834', 'grad_norm': '0.92', 'learning_rate': '6e-05', 'epoch': '0.09375'}

Numbers stand in quotes or do not, by the version. The dictionary has no number of the step: as many as there were, that
is the step, for every one is printed. The bar tells how many there will be, and where a log begins whose start the node
has thrown away: one that does not begin with nothing done. Bars come at once and dictionaries may not, since only the
error stream is written without a buffer; so where the start is there, bars do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BAR = re.compile(r"\|\s*(\d+)/(\d+) \[")
_PAIR = re.compile(r"'(\w+)': '?([-+.\w]+)'?")
_KEPT = ("loss", "grad_norm", "learning_rate", "epoch")
# What a failed tuning ends with.
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b.*")
_WORDS_CHARACTERS = 500


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: From 1.
        total: How many there will be; None where no bar was seen.
        values: Loss, gradient norm, learning rate and epoch, as far as they were printed.
    """

    number: int
    total: int | None
    values: dict[str, float]


def read_steps(log: str) -> Iterator[Step]:
    """Every step in a log, in order."""
    number, shown, begun = 0, 0, False
    total: int | None = None
    for part in re.split(r"[\r\n]+", log):
        bar = _BAR.search(part)
        # Loading a model draws bars too; the trainer's is the one that is shown when the first loss is printed.
        if bar is not None and (number == 0 or int(bar[2]) == total):
            shown, total = int(bar[1]), int(bar[2])
            begun = begun or shown == 0
        # The dictionary may stand behind a bar in one line.
        start = part.find("{'loss'")
        if start < 0:
            continue
        values = _values(part[start:])
        if "loss" in values:
            number = number + 1 if begun else max(number + 1, shown)
            yield Step(number, total, {key: values[key] for key in _KEPT if key in values})


def last_words(log: str) -> str | None:
    """The line that says why a tuning failed, else the last one; None of an empty log."""
    lines = [line.rsplit("\r", 1)[-1].strip() for line in log.splitlines()]
    errors = [line for line in lines if _ERROR.match(line)]
    found = errors or [line for line in lines if line]
    return found[-1][:_WORDS_CHARACTERS] if found else None


def _values(text: str) -> dict[str, float]:
    found = {}
    for key, word in _PAIR.findall(text.partition("}")[0]):
        try:
            found[key] = float(word)
        except ValueError:
            continue
    return found
