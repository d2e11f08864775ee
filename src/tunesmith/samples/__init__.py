"""Training data that ships with Tunesmith, written for it: one folder per sample, with train and held-out rows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tunesmith.errors import DataError


def sample_names() -> list[str]:
    """The names of the bundled samples, sorted."""
    root = Path(str(files(__name__)))
    return sorted(path.parent.name for path in root.glob("*/train.jsonl"))


def sample_folder(name: str) -> Path:
    """The installed folder of a bundled sample; it holds ``train.jsonl``, ``heldout.jsonl`` and ``README.md``.

    Raises:
        DataError: ``data.unknown_sample`` when no sample has this name.
    """
    names = sample_names()
    if name not in names:
        raise DataError(
            "there is no bundled sample of this name",
            code="data.unknown_sample",
            value=name,
            hint=f"known samples: {', '.join(names) or 'none; the installation is incomplete'}",
        )
    return Path(str(files(__name__))) / name


def general_text() -> Path:
    """Paragraphs of general English prose, one JSON object with ``text`` a line; for measuring what was forgotten."""
    return Path(str(files(__name__))) / "general_text.jsonl"
