"""From what a user named (a file, a folder, a hub id) to the files to read."""

from __future__ import annotations

import difflib
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.formats.hub import fetch_dataset
from tunesmith.formats.hub_names import HubName, parse_hub_name, split_of_name
from tunesmith.formats.kinds import SourceFile, detect_file, extension_kind

_ASIDE = ("readme", "license", "licence", "notice", "changelog", "citation", "contributing")


def find_files(source: str | Path) -> tuple[SourceFile, ...]:
    """The files of a source, in a fixed order.

    Args:
        source: A file; a folder of text files, or of data files of one kind; or ``org/name[:config][@split]``.

    Raises:
        DataError: ``data.missing``, ``data.no_text``, ``data.mixed_folder``, ``data.several_splits`` and the errors of
            :func:`tunesmith.formats.kinds.detect_file`.
        NetworkError: The hub did not answer.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_files(path)
    if path.exists():
        return (detect_file(path),)
    name = _hub_name(source)
    if name is None:
        raise _missing(path)
    return tuple(detect_file(found, relative) for relative, found in fetch_dataset(name, name.split))


def _hub_name(source: str | Path) -> HubName | None:
    """The hub id that a source may be: not where it looks like a file, or where its first part is a folder here."""
    if not isinstance(source, str) or extension_kind(source) is not None or source.startswith((".", "~", "/")):
        return None
    name = parse_hub_name(source)
    return None if name is None or Path(source.split("/")[0]).is_dir() else name


def _folder_files(folder: Path) -> tuple[SourceFile, ...]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    kinds = {path: extension_kind(path.name) for path in found}
    data = [path for path, kind in kinds.items() if kind not in (None, "text")]
    texts = [path for path, kind in kinds.items() if kind == "text"]
    about = [path for path in texts if path.stem.lower().startswith(_ASIDE)]
    if data and len(texts) > len(about):
        raise DataError(
            "the folder holds both texts and data files",
            code="data.mixed_folder",
            place=str(folder),
            value=f"{texts[0].name}, {data[0].name}",
            hint="name one file, or a folder that holds one kind",
        )
    chosen = data or texts
    if not chosen:
        raise DataError(
            "there are no data files and no text files in the folder",
            code="data.no_text",
            place=str(folder),
            hint="it needs .txt or .md files, one document each, or JSONL, JSON, CSV, TSV or Parquet files",
        )
    splits = sorted({split for path in data if (split := split_of_name(path.relative_to(folder).as_posix()))})
    if len(splits) > 1:
        raise DataError(
            "the folder holds several splits of a data set",
            code="data.several_splits",
            place=str(folder),
            value=", ".join(splits),
            hint=f"name the file to train on, for example {data[0]}",
        )
    # An empty file among many texts is one bad row, not the end of the whole folder.
    return tuple(
        SourceFile(path.relative_to(folder).as_posix(), path, "text", path.name.lower().endswith(".gz"))
        if not data
        else detect_file(path, path.relative_to(folder).as_posix())
        for path in chosen
    )


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "__")) for part in relative.parts)


def _missing(path: Path) -> DataError:
    """The error for a path that does not exist, with the nearest name in the nearest folder that does."""
    folder = path.parent
    if not folder.is_dir():
        hint = f"the folder {folder} does not exist"
    else:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
        hint = f"did you mean {folder / near[0]}?" if near else f"there is nothing with a similar name in {folder}"
    return DataError("no such file or folder", code="data.missing", place=str(path), hint=hint)
