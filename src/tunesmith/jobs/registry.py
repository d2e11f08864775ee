"""What may be done with the registry: register, look at, label, remove, send elsewhere and fetch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.catalog.cache import cache_folder
from tunesmith.catalog.registered import Registered, find_registered
from tunesmith.catalog.registering import register_folder, register_run
from tunesmith.errors import ModelError, TunesmithError, UsageError
from tunesmith.jobs.checkpoints import checkpoint_folders, keep_checkpoints, run_of
from tunesmith.jobs.registered_runs import note_waiting
from tunesmith.jobs.stages import OnEvent
from tunesmith.jobs.states import run_status
from tunesmith.registry.blobs import OnProgress, no_progress
from tunesmith.registry.names import Address, check_labels, check_name
from tunesmith.registry.record import Origin
from tunesmith.registry.references import read_references, set_label
from tunesmith.registry.versions import Version, find_version, read_checkpoints, read_labels
from tunesmith.registry.writing import claim_for_run, claim_of_run, version_of_run
from tunesmith.runs.layout import RunFolder, find_run
from tunesmith.storage.store import Store


@dataclass(frozen=True)
class Wanted:
    """How something is to be registered: under which name, with which labels and words.

    ``with_base`` copies the base model too, ``checkpoints`` keeps those that the run has then.
    """

    name: str
    aliases: tuple[str, ...] = ()
    stage: str | None = None
    description: str = ""
    language: str | None = None
    with_base: bool = False
    checkpoints: bool = True


@dataclass(frozen=True)
class Done:
    """A version, and what did not work beside it."""

    version: Version
    warnings: tuple[str, ...] = ()


def register(
    store: Store,
    source: str,
    runs_folder: Path,
    wanted: Wanted,
    on_event: OnEvent,
    *,
    on_progress: OnProgress = no_progress,
    base_name: str | None = None,
    command: Sequence[str] | None = None,
) -> Done:
    """Register a run, finished or not, or a folder with a model or an adapter.

    A run that is not finished gets a version that is completed once it is; registering it again, or using the version,
    does that.

    Args:
        store: The registry.
        source: A run's name or folder, or a model's folder.
        runs_folder: Where runs are looked for by name.
        wanted: Under which name and how.
        on_event: Gets the events of the worker that makes checkpoints usable.
        on_progress: Told of bytes.
        base_name: The base of an adapter folder that does not name one.
        command: The worker's program, the real one unless given.

    Raises:
        TunesmithError: There is no such run, it holds no model, or the registry cannot be written.
    """
    check_name(wanted.name)
    check_labels(list(wanted.aliases), "alias")
    check_labels([wanted.stage] if wanted.stage else [], "stage")
    folder = Path(source).expanduser()
    is_model = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    warnings: list[str] = []
    if is_model and not (folder / "recipe.yaml").is_file():
        version = _from_folder(store, folder, wanted, base_name, on_progress)
    else:
        run = find_run(runs_folder, source)
        version = _from_run(store, run, wanted, on_progress)
        if wanted.checkpoints and version.state == "whole":
            warnings = _kept(store, version, run, on_event, command)
    for label in (*wanted.aliases, *([wanted.stage] if wanted.stage else [])):
        set_label(store, version.name, version.number, label)
    return Done(version, tuple(warnings))


def version_json(found: Registered | Version, store: Store) -> dict[str, Any]:
    """A version with all that is known of it, as plain data."""
    version = found.version if isinstance(found, Registered) else found
    run = run_of(version)
    labels = [label for label, number in read_labels(store, version.name).items() if number == version.number]
    kept = sorted(read_checkpoints(store, version.name, version.number))
    known = {*kept, None if version.record is None else version.record.step}
    available = [step for step in sorted(checkpoint_folders(run)) if step not in known] if run is not None else []
    record = None if version.record is None else version.record.model_dump(mode="json", exclude_none=True)
    return {
        "address": version.address,
        "state": version.state,
        "run": version.claim.run,
        "run_state": None if run is None or version.state == "whole" else run_status(run).words,
        "labels": labels,
        "checkpoints": {"kept": kept, "available": available},
        "references": [vars(one) for one in read_references(store, version.name, version.number)],
        "size_bytes": None if version.record is None else version.record.size_bytes,
        "record": record,
    }


def lineage(store: Store, version: Version) -> list[Version]:
    """The version and those that it came of, newest first, as far as they are in this registry."""
    chain = [version]
    while chain[-1].record is not None and chain[-1].record.parent is not None:
        try:
            parent = find_registered(chain[-1].record.parent, store).version
        except ModelError:
            break
        if any(parent.address == one.address for one in chain):
            break
        chain.append(parent)
    return chain


def push(found: Registered, target: str, *, with_report: bool = False, on_progress: OnProgress = no_progress) -> str:
    """Send a version to a hub, an MLflow server or an OCI registry; returns where it is there.

    Raises:
        UsageError: ``usage.target``; a library is not installed.
        ModelError: The version is not whole.
        NetworkError: The other side does not answer or refuses.
    """
    from tunesmith.exchange.publish import published
    from tunesmith.exchange.table import find_exchange

    exchange, place = find_exchange(target)
    with tempfile.TemporaryDirectory(prefix="tunesmith-push-") as scratch:
        folder = published(found, Path(scratch) / "model", cache_folder(), with_report=with_report)
        return exchange.push(folder, place, found.version.address, on_progress)


def fetch(
    store: Store, source: str, wanted: Wanted, on_progress: OnProgress = no_progress, *, base_name: str | None = None
) -> Version:
    """Register what lies on a hub, an MLflow server or an OCI registry.

    Raises:
        UsageError, NetworkError: As :func:`push`.
        ModelError: There is no such model, or it is not what its record says.
    """
    from tunesmith.exchange.publish import received
    from tunesmith.exchange.table import find_exchange

    check_name(wanted.name)
    exchange, place = find_exchange(source)
    with tempfile.TemporaryDirectory(prefix="tunesmith-pull-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        exchange.pull(place, folder, on_progress)
        record = received(
            store,
            folder,
            wanted.name,
            source,
            description=wanted.description,
            language=wanted.language,
            with_base=wanted.with_base,
            base_name=base_name,
        )
    for label in (*wanted.aliases, *([wanted.stage] if wanted.stage else [])):
        set_label(store, record.name, record.version, label)
    return find_version(store, Address(record.name, record.version))


def _from_folder(store: Store, folder: Path, wanted: Wanted, base_name: str | None, on_progress: OnProgress) -> Version:
    record = register_folder(
        store,
        folder.resolve(),
        wanted.name,
        origin=Origin(kind="folder", name=folder.resolve().name),
        description=wanted.description,
        language=wanted.language,
        with_base=wanted.with_base,
        base_name=base_name,
        on_progress=on_progress,
    )
    return find_version(store, Address(record.name, record.version))


def _from_run(store: Store, run: RunFolder, wanted: Wanted, on_progress: OnProgress) -> Version:
    known = version_of_run(store, wanted.name, run.path)
    if run.manifest.is_file():
        record = register_run(
            store,
            run,
            wanted.name,
            description=wanted.description or (known.claim.description if known else ""),
            language=wanted.language or (known.claim.language if known else None),
            with_base=wanted.with_base or (known is not None and known.claim.with_base),
            number=None if known is None else known.number,
            on_progress=on_progress,
        )
        return find_version(store, Address(record.name, record.version))
    state = run_status(run).state
    if state == "cancelled":
        raise UsageError(
            "the run was cancelled and will never have a result",
            code="registry.cancelled",
            place=run.name,
            hint="register another run",
        )
    claim = claim_of_run(run.path, description=wanted.description, language=wanted.language, with_base=wanted.with_base)
    version = known or claim_for_run(store, wanted.name, claim)
    note_waiting(run, store.url, version.address)
    return version


def _kept(
    store: Store, version: Version, run: RunFolder, on_event: OnEvent, command: Sequence[str] | None
) -> list[str]:
    """Keep the checkpoints that the run has now; what goes wrong takes nothing from the version."""
    assert version.record is not None
    known = {version.record.step, *read_checkpoints(store, version.name, version.number)}
    steps = [step for step in sorted(checkpoint_folders(run)) if step not in known]
    if not steps:
        return []
    try:
        keep_checkpoints(store, version, steps, on_event, command=command)
    except TunesmithError as error:
        return [f"checkpoints were not kept: {'; '.join(error.lines())}"]
    return []
