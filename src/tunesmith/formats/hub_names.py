"""Names of data sets on the Hugging Face hub, and which of their files make a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from tunesmith.errors import DataError
from tunesmith.formats.columns import nearest_hint
from tunesmith.formats.kinds import extension_kind

_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


@dataclass(frozen=True)
class HubName:
    """A data set of the hub: its id, the configuration or None for the default one, and the split."""

    id: str
    config: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        return self.id if self.config is None else f"{self.id}:{self.config}"


def parse_hub_name(text: str) -> HubName | None:
    """Read ``org/name[:config][@split]``; None where the text has another form."""
    match = _NAME.fullmatch(text)
    return None if match is None else HubName(match["id"], match["config"], match["split"] or "train")


def split_of_name(name: str) -> str | None:
    """The split that a file name or one of its folders speaks of: train, validation or test."""
    words = [word for part in reversed(name.lower().split("/")) for word in re.split(r"[^a-z]+", part)]
    return next((split for word in words for split, usual in _SPLITS.items() if word in usual), None)


def choose_files(names: Sequence[str], card: Any, wanted: HubName, split: str) -> list[str]:
    """The files of a split among the file names of a data set.

    The card's ``configs`` decide where it has them; else folders are configurations and words in the names are splits;
    files that speak of no split are all for training.

    Raises:
        DataError: ``data.hub_no_files``, ``data.hub_config``, ``data.hub_split``.
    """
    names = sorted(name for name in names if is_data(name))
    if not names:
        raise DataError(
            "the data set holds no files that can be read",
            code="data.hub_no_files",
            place=wanted.id,
            hint="JSONL, JSON, CSV, TSV and Parquet files are read",
        )
    by_split = _by_card(names, card, wanted) or _by_name(names, wanted)
    if split not in by_split:
        raise DataError(
            "the data set has no such split",
            code="data.hub_split",
            place=str(wanted),
            value=split,
            hint=nearest_hint(split, by_split, "the splits are"),
        )
    return by_split[split]


def is_data(name: str) -> bool:
    """Whether a file of a data set holds rows that can be read."""
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and extension_kind(name) not in (None, "text") and name != "dataset_infos.json"


def _by_card(names: Sequence[str], card: Any, wanted: HubName) -> dict[str, list[str]]:
    """Files of each split as the card's ``configs`` say; empty where it says nothing usable."""
    configs = card.get("configs") if isinstance(card, dict) else None
    entries = [entry for entry in configs or () if isinstance(entry, dict) and entry.get("data_files")]
    if not entries:
        return {}
    listed = {str(entry.get("config_name", "default")): entry for entry in entries}
    entry = listed[_choose_config(list(listed), wanted, [key for key in listed if listed[key].get("default")])]
    folder = str(entry.get("data_dir", "")).strip("/")
    parts = entry["data_files"]
    if isinstance(parts, dict):
        parts = [{"split": key, "path": value} for key, value in parts.items()]
    elif isinstance(parts, str) or not all(isinstance(part, dict) for part in parts):
        parts = [{"split": "train", "path": parts}]
    by_split: dict[str, list[str]] = {}
    for part in parts:
        patterns = part["path"] if isinstance(part.get("path"), list) else [part.get("path")]
        full = [f"{folder}/{pattern}".lstrip("/").replace("**/", "*").removeprefix("./") for pattern in patterns]
        chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in full)]
        if chosen:
            by_split[str(part.get("split", "train"))] = chosen
    return by_split


def _by_name(names: Sequence[str], wanted: HubName) -> dict[str, list[str]]:
    folders = list(dict.fromkeys(name.split("/")[0] for name in names if "/" in name))
    configs = [folder for folder in folders if folder != "data" and split_of_name(folder) is None]
    at_root = any("/" not in name or name.split("/")[0] not in configs for name in names)
    if configs and (wanted.config is not None or not at_root):
        config = _choose_config(configs, wanted, [])
        names = [name for name in names if name.startswith(config + "/")]
    elif wanted.config is not None:
        raise _no_config(wanted, configs)
    elif configs:
        names = [name for name in names if name.split("/")[0] not in configs]
    by_split: dict[str, list[str]] = {}
    for name in names:
        inside = name.split("/", 1)[1] if configs and name.split("/")[0] in configs else name
        by_split.setdefault(split_of_name(inside) or "train", []).append(name)
    return by_split


def _choose_config(configs: list[str], wanted: HubName, default: list[str]) -> str:
    if wanted.config is not None:
        if wanted.config not in configs:
            raise _no_config(wanted, configs)
        return wanted.config
    if default or len(configs) == 1:
        return (default or configs)[0]
    if "default" in configs:
        return "default"
    raise _no_config(wanted, configs)


def _no_config(wanted: HubName, configs: list[str]) -> DataError:
    if wanted.config is None:
        return DataError(
            "the data set has several configurations",
            code="data.hub_config",
            place=wanted.id,
            value=", ".join(configs[:20]),
            hint=f"name one, for example {wanted.id}:{configs[0]}",
        )
    return DataError(
        "the data set has no such configuration",
        code="data.hub_config",
        place=wanted.id,
        value=wanted.config,
        hint=nearest_hint(wanted.config, configs, "the configurations are") if configs else f"write {wanted.id}",
    )
