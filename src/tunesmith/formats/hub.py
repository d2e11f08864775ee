"""Data sets of the Hugging Face hub: bring the files of a split to this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import DataError, NetworkError
from tunesmith.formats.hub_names import HubName, choose_files, is_data, parse_hub_name
from tunesmith.runs.atomic import output_error, read_json, write_json

_TIMEOUT_SECONDS = 30.0
# Where the hub keeps its own Parquet copies of data sets that are stored in other ways.
_CONVERTED = "refs/convert/parquet"


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


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _from_hub(wanted: HubName, split: str) -> list[tuple[str, Path]]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def bring(name: str, revision: str) -> Path:
        found = api.hf_hub_download(wanted.id, name, repo_type="dataset", revision=revision, cache_dir=_cache())
        return Path(found)

    # The commit is fixed once, so that all files are of one state although someone may push meanwhile.
    info = api.dataset_info(wanted.id, timeout=_TIMEOUT_SECONDS)
    revision = info.sha or "main"
    names = [item.rfilename for item in info.siblings or ()]
    if not any(is_data(name) for name in names):
        converted = api.list_repo_refs(wanted.id, repo_type="dataset").converts
        revision = next((ref.target_commit for ref in converted if ref.ref == _CONVERTED), revision)
        info = api.dataset_info(wanted.id, revision=revision, timeout=_TIMEOUT_SECONDS)
        names = [item.rfilename for item in info.siblings or ()]
    card = _card(bring("README.md", revision)) if "README.md" in names else None
    chosen = choose_files(names, card, wanted, split)
    fetched = [(name, bring(name, revision)) for name in chosen]
    record = _record(wanted, split)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, {"revision": revision, "files": chosen})
    return fetched


def _from_cache(wanted: HubName, split: str) -> list[tuple[str, Path]]:
    """The files of a split that was fetched whole before, or of a copy that another tool fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download

    record = _record(wanted, split)
    if record.is_file():
        known = read_json(record)
        fixed = {"repo_type": "dataset", "revision": known["revision"], "cache_dir": _cache(), "local_files_only": True}
        return [(name, Path(hf_hub_download(wanted.id, name, **fixed))) for name in known["files"]]
    folder = Path(snapshot_download(wanted.id, repo_type="dataset", cache_dir=_cache(), local_files_only=True))
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    card = _card(folder / "README.md") if "README.md" in names else None
    return [(name, folder / name) for name in choose_files(names, card, wanted, split)]


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _record(wanted: HubName, split: str) -> Path:
    """Where it is written down which files a split has, once all of them are here.

    Without it, an interrupted download would look offline like a smaller data set.
    """
    folder = "datasets--" + wanted.id.replace("/", "--")
    return _cache() / folder / "tunesmith" / f"{wanted.config or ''}@{split}.json"


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
