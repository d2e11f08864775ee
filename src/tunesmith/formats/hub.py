"""Data sets of the Hugging Face hub: find the files of a split and bring them to this machine."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import DataError, NetworkError
from tunesmith.formats.columns import nearest_hint
from tunesmith.formats.kinds import extension_kind
from tunesmith.runs.atomic import output_error

_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
_TIMEOUT_SECONDS = 30.0
# Where the hub keeps its own Parquet copies of data sets that are stored in other ways.
_CONVERTED = "refs/convert/parquet"


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


def fetch_dataset(name: str | HubName, split: str = "train") -> list[tuple[str, Path]]:
    """Bring the files of one split here, or take them from the cache; honours HF_ENDPOINT and HF_HUB_OFFLINE.

    Args:
        name: ``org/name`` or ``org/name:config``.
        split: The split to take.

    Returns:
        Name inside the data set and local path of each file, in a fixed order.

    Raises:
        DataError: ``data.hub_not_found``, ``data.hub_no_access``, ``data.hub_no_files``, ``data.hub_config``,
            ``data.hub_split``.
        NetworkError: The hub did not answer, or offline and not in the cache (``network.hub``).
        OutputError: The cache cannot be written.
    """
    wanted = parse_hub_name(name) if isinstance(name, str) else name
    if wanted is None:
        raise DataError("not a data set id", code="data.hub_name", value=name, hint="write org/name or org/name:config")
    with _telling_hub_errors(wanted):
        if _offline():
            return _from_cache(wanted, split)
        return _from_hub(wanted, split)


def choose_files(names: Sequence[str], card: Any, wanted: HubName, split: str) -> list[str]:
    """The files of a split among the file names of a data set.

    The card's ``configs`` decide where it has them; else folders are configurations and words in the names are splits;
    files that speak of no split are all for training.

    Raises:
        DataError: ``data.hub_no_files``, ``data.hub_config``, ``data.hub_split``.
    """
    names = sorted(name for name in names if _is_data(name))
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


def _is_data(name: str) -> bool:
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


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _from_hub(wanted: HubName, split: str) -> list[tuple[str, Path]]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def bring(name: str, revision: str) -> Path:
        return Path(api.hf_hub_download(wanted.id, name, repo_type="dataset", revision=revision))

    # The commit is fixed once, so that all files are of one state although someone may push meanwhile.
    info = api.dataset_info(wanted.id, timeout=_TIMEOUT_SECONDS)
    revision = info.sha or "main"
    names = [item.rfilename for item in info.siblings or ()]
    if not any(_is_data(name) for name in names):
        converted = api.list_repo_refs(wanted.id, repo_type="dataset").converts
        revision = next((ref.target_commit for ref in converted if ref.ref == _CONVERTED), revision)
        info = api.dataset_info(wanted.id, revision=revision, timeout=_TIMEOUT_SECONDS)
        names = [item.rfilename for item in info.siblings or ()]
    card = _card(bring("README.md", revision)) if "README.md" in names else None
    return [(name, bring(name, revision)) for name in choose_files(names, card, wanted, split)]


def _from_cache(wanted: HubName, split: str) -> list[tuple[str, Path]]:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(wanted.id, repo_type="dataset", local_files_only=True))
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    card = _card(folder / "README.md") if "README.md" in names else None
    return [(name, folder / name) for name in choose_files(names, card, wanted, split)]


def _card(readme: Path) -> Any:
    """The front matter of a data set's README; None where there is none."""
    text = readme.read_text("utf-8", errors="replace")
    parts = text.split("---", 2)
    if not text.startswith("---") or len(parts) < 3:
        return None
    try:
        return yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None


@contextmanager
def _telling_hub_errors(wanted: HubName) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DataError(
            "the data set is behind an agreement",
            code="data.hub_no_access",
            place=wanted.id,
            hint="accept its conditions on its page, then log in with `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            "no such file, folder or data set on the hub",
            code="data.hub_not_found",
            place=wanted.id,
            hint="check the spelling; a private data set needs `hf auth login`",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise output_error(error, Path(error.filename or "the hub's cache")) from error
        raise _no_answer(wanted, error) from error
    except (DataError, NetworkError):
        raise
    except Exception as error:
        # The hub's client lets errors of its HTTP library through, whose package changes with its version.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise _no_answer(wanted, error) from error


def _no_answer(wanted: HubName, error: Exception) -> NetworkError:
    offline = _offline()
    return NetworkError(
        "offline, and the data set is not in the cache" if offline else "the hub did not answer",
        code="network.hub",
        place=wanted.id,
        value=str(error).strip().split("\n")[0][:200] or type(error).__name__,
        hint="unset HF_HUB_OFFLINE, or name a local file"
        if offline
        else "a path of this name does not exist here; for a hub id try again, set HF_ENDPOINT, or use a local file",
    )
