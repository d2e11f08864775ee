"""Bring a model of the Hugging Face hub to this machine; torch-free."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tunesmith.catalog.watch import OnProgress, watching
from tunesmith.errors import ModelError, NetworkError
from tunesmith.runs.atomic import output_error, read_json

_WANTED = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def fetch_from_hub(hub_id: str, timeout_seconds: float, on_progress: OnProgress) -> tuple[Path, str]:
    """Bring config, safetensors and tokenizer here, into the hub's own cache; honours HF_ENDPOINT and HF_HUB_OFFLINE.

    An interrupted download goes on where it was. Pickled weights and code are never fetched.

    Args:
        hub_id: ``org/name``.
        timeout_seconds: How long the hub may take for its first answer.
        on_progress: Told of the bytes that have arrived, from another thread.

    Returns:
        The folder and the commit that it holds.

    Raises:
        ModelError: ``model.hub_gated``, ``model.hub_not_allowed``, ``model.hub_not_found``, ``model.pickled_weights``,
            ``model.no_weights``.
        NetworkError: ``network.hub``: the hub did not answer, or offline and not in the cache.
        OutputError: The cache cannot be written.
    """
    with _telling_hub_errors(hub_id):
        if is_offline():
            return _from_cache(hub_id)
        return _from_hub(hub_id, timeout_seconds, on_progress)


def fetch_config(hub_id: str, timeout_seconds: float) -> dict[str, Any]:
    """The content of a model's config.json, which is all that a plan of it needs; nothing else is fetched.

    Raises:
        ModelError: As :func:`fetch_from_hub`; ``model.config``: it has none that can be read.
        NetworkError: ``network.hub``: the hub did not answer, or offline and not in the cache.
        OutputError: The cache cannot be written.
    """
    with _telling_hub_errors(hub_id):
        from huggingface_hub import constants, errors, hf_hub_download

        try:
            path = hf_hub_download(
                hub_id,
                "config.json",
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=os.environ.get("HF_ENDPOINT"),
                etag_timeout=timeout_seconds,
                local_files_only=is_offline(),
            )
            found = read_json(Path(path))
        except (errors.EntryNotFoundError, orjson.JSONDecodeError) as error:
            raise _no_config(hub_id) from error
    if not isinstance(found, dict):
        raise _no_config(hub_id)
    return found


def _no_config(hub_id: str) -> ModelError:
    return ModelError("the repository has no config.json that can be read", code="model.config", place=hub_id)


def _from_hub(hub_id: str, timeout_seconds: float, on_progress: OnProgress) -> tuple[Path, str]:
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    # The commit is fixed once, so that all files are of one state although someone may push meanwhile.
    info = api.model_info(hub_id, timeout=timeout_seconds, files_metadata=True)
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
    names = choose_files(list(sizes), hub_id)
    total = sum(sizes[name] for name in names)
    revision = info.sha or "main"
    cache = Path(constants.HF_HUB_CACHE)
    blobs = cache / ("models--" + hub_id.replace("/", "--")) / "blobs"
    with watching([blobs], total or None, on_progress), _without_bars():
        # The names are patterns to the library; no file name of a model holds the characters that patterns use.
        folder = api.snapshot_download(hub_id, revision=revision, allow_patterns=names, cache_dir=cache)
    # Where the hub goes away half-way, the library can hand out what an earlier call left, and only logs that.
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise ConnectionError(f"{', '.join(missing[:3])} did not arrive")
    on_progress("download", total, total or None, "bytes")
    return Path(folder), revision


def _from_cache(hub_id: str) -> tuple[Path, str]:
    """A copy that is in the hub's cache already, for instance from another tool."""
    from huggingface_hub import constants, errors, snapshot_download

    folder = Path(snapshot_download(hub_id, cache_dir=constants.HF_HUB_CACHE, local_files_only=True))
    here = {path.name for path in folder.iterdir()}
    if not {"config.json", "adapter_config.json"} & here or not any(name.endswith(".safetensors") for name in here):
        raise errors.LocalEntryNotFoundError("the copy in the cache is not whole")
    return folder, folder.name


def choose_files(names: Sequence[str], hub_id: str) -> list[str]:
    """The files of a repository that make a model: config, tokenizer, and its weights as safetensors once.

    Raises:
        ModelError: There are no weights, or only pickled ones.
    """
    top = [name for name in names if "/" not in name and name.endswith(_WANTED)]
    chosen = [name for name in top if not name.startswith(("consolidated", "params.", "."))]
    if any(name.endswith(".safetensors") for name in chosen):
        return sorted(chosen)
    if any(name.endswith(_PICKLES) for name in names):
        raise ModelError(
            "the repository holds pickled weights only, and pickles can run code",
            code="model.pickled_weights",
            place=hub_id,
            hint="convert the model to safetensors first, or choose a repository that has them",
        )
    raise ModelError(
        "the repository holds no weights that can be read",
        code="model.no_weights",
        place=hub_id,
        hint="safetensors in the repository's top folder are read; GGUF, ONNX and others are not",
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    if not before:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


@contextmanager
def _telling_hub_errors(hub_id: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            "the model is behind an agreement",
            code="model.hub_gated",
            place=hub_id,
            hint="accept its conditions on its page, then log in with `hf auth login`; or give a local folder",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _no_answer(hub_id, error) from error
    except errors.HfHubHTTPError as error:
        raise _http_error(hub_id, error) from error
    except (ModelError, NetworkError):
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise output_error(error, Path(error.filename or "the hub's cache")) from error
        raise _no_answer(hub_id, error) from error
    except Exception as error:
        # The hub's client lets errors of its HTTP library through, whose package changes with its version.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise _no_answer(hub_id, error) from error


def _http_error(hub_id: str, error: Any) -> ModelError | NetworkError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return ModelError(
            "the hub does not let this account see the model, or there is no such model",
            code="model.hub_not_allowed",
            place=hub_id,
            hint="check the spelling; a private model needs `hf auth login` with an account that may read it",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            "no such model on the hub",
            code="model.hub_not_found",
            place=hub_id,
            hint="check the spelling; `tunesmith models list` shows models that work",
        )
    return _no_answer(hub_id, error)


def _no_answer(hub_id: str, error: Exception) -> NetworkError:
    offline = is_offline()
    return NetworkError(
        "offline, and the model is not in the cache" if offline else "the hub did not answer",
        code="network.hub",
        place=hub_id,
        value=str(error).strip().split("\n")[0][:200] or type(error).__name__,
        hint="unset HF_HUB_OFFLINE, or give the folder of a model"
        if offline
        else "try again, set HF_ENDPOINT to a mirror, or give the folder of a model that you have; "
        "smollm2-135m-instruct comes from the package index instead",
    )
