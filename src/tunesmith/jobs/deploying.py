"""Bring models to where a server can take them: what each name means, and under which name it is served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tunesmith.catalog.registered import Registered
from tunesmith.catalog.resolve import resolve_model
from tunesmith.errors import Problem, UsageError
from tunesmith.jobs.checkpoints import brought_here
from tunesmith.jobs.serving import find_place
from tunesmith.jobs.stages import OnEvent, pull
from tunesmith.registry.references import UserKind, add_reference, drop_reference
from tunesmith.runs.atomic import read_json
from tunesmith.wire.serving import ServedModel

# What `tunesmith export` writes.
GENAI_CONFIG = "genai_config.json"
ADAPTER_LIST = "adapters.json"
LLAMA_SUFFIX = ".gguf"


def models_to_serve(given: Sequence[str], runs_folder: Path, on_event: OnEvent) -> list[ServedModel]:
    """The models of a command line, each ``MODEL`` or ``NAME=MODEL``; those that are not here are fetched.

    Args:
        given: As the user wrote them. A name is what requests call the model; without one it is what the user wrote,
            of a path its last part. Adapters of an exported folder are called ``NAME/ADAPTER``.
        runs_folder: Where runs lie.
        on_event: Gets the events of fetching.

    Raises:
        UsageError: ``usage.served_names``: two have the same name.
        ModelError: There is no such model.
    """
    return [served for name, model in named_models(given) for served in _served(name, model, runs_folder, on_event)]


def named_models(given: Sequence[str]) -> list[tuple[str, str]]:
    """The models of a command line by the names that requests use, in order.

    Raises:
        UsageError: ``usage.served_names``: two have the same name.
    """
    named = [_named(one) for one in given]
    names = [name for name, _ in named]
    problems = [
        Problem("usage.served_names", "two models have this name", place=name, value=model)
        for at, (name, model) in enumerate(named)
        if name in names[:at]
    ]
    if problems:
        raise UsageError("served models need names of their own", problems=problems, hint="write NAME=MODEL")
    return named


def _named(given: str) -> tuple[str, str]:
    if Path(given).expanduser().exists():
        return Path(given).expanduser().resolve().name, given
    name, separator, model = given.partition("=")
    if separator and name and model:
        return name, model
    return given, given


def _served(name: str, model: str, runs_folder: Path, on_event: OnEvent) -> list[ServedModel]:
    path = Path(model).expanduser()
    inside = sorted(path.glob(f"*{LLAMA_SUFFIX}")) if path.is_dir() else []
    file = path if path.suffix == LLAMA_SUFFIX and path.is_file() else inside[0] if len(inside) == 1 else None
    if file is not None:
        return [ServedModel(name, file.resolve(), runtime="llama.cpp")]
    if (path / GENAI_CONFIG).is_file():
        return _exported(name, path.resolve())
    return [_place(name, model, runs_folder, on_event)]


def _exported(name: str, folder: Path) -> list[ServedModel]:
    """An exported folder, and the adapters that lie in it."""
    listed = read_json(folder / ADAPTER_LIST)["adapters"] if (folder / ADAPTER_LIST).is_file() else {}
    adapters = [
        ServedModel(f"{name}/{adapter}", folder, folder / Path(str(file)).name, "onnx")
        for adapter, file in listed.items()
    ]
    return [ServedModel(name, folder, runtime="onnx"), *adapters]


def _place(name: str, model: str, runs_folder: Path, on_event: OnEvent) -> ServedModel:
    reference = brought_here(resolve_model(model, runs_folder), runs_folder, on_event)
    place = find_place(reference, runs_folder) or pull(
        model if reference.kind != "run" else str(reference.path), on_event, runs_folder=runs_folder
    )
    return ServedModel(name, place.folder, place.adapter)


@contextmanager
def used_versions(given: Sequence[str], runs_folder: Path, kind: UserKind, who: str) -> Iterator[None]:
    """Say of every registered version among some models that it is used while the block runs.

    Args:
        given: As in :func:`models_to_serve`.
        runs_folder: Where runs lie.
        kind: What uses them.
        who: It in words, by which people find it.

    Raises:
        ModelError: There is no such model, or the version was removed meanwhile.
    """
    found = [use_of(model, runs_folder) for _, model in map(_named, given)]
    held = [one for one in found if one is not None]
    with ExitStack() as stack:
        for one in held:
            add_reference(one.store, one.address.name, one.version.number, kind, who)
            stack.callback(drop_reference, one.store, one.address.name, one.version.number, kind, who)
        yield


def use_of(model: str, runs_folder: Path) -> Registered | None:
    """The version that a model's name means; None for other models, exported ones among them."""
    if Path(model).expanduser().exists():
        return None
    return resolve_model(model, runs_folder).registered
