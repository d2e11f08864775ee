"""``tunesmith registry``: keep versions of tuned models, with lineage, stages and cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.cli.words import count, storage
from tunesmith.errors import UsageError

if TYPE_CHECKING:
    from tunesmith.catalog.registered import Registered
    from tunesmith.cli.progress import View
    from tunesmith.jobs.registry import Wanted
    from tunesmith.storage.store import Store

app = new_app("Keep versions of tuned models, with lineage, stages and cards.")

Where = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="URL", help="A folder, s3://bucket/path or az://container/path, instead of registry/."
    ),
]
Name = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Under which name.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version, such as support-router:3.")]
Aliases = Annotated[list[str] | None, typer.Option("--alias", metavar="WORD", help="A further name; repeatable.")]
Stage = Annotated[str | None, typer.Option("--stage", metavar="STAGE", help="staging, production or archived.")]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is, for people.")]
Language = Annotated[str | None, typer.Option("--language", metavar="CODE", help="Its language, such as en.")]
WithBase = Annotated[bool, typer.Option("--with-base", help="Copy the base model too, also one that can be fetched.")]
BaseName = Annotated[
    str | None, typer.Option("--base", metavar="MODEL", help="The base of an adapter that does not name a usable one.")
]


@app.command()
def register(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a folder with a model or an adapter.")],
    name: Name,
    *,
    alias: Aliases = None,
    stage: Stage = None,
    description: Description = "",
    language: Language = None,
    with_base: WithBase = False,
    base: BaseName = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints/--no-checkpoints", help="Keep the checkpoints that the run has now.")
    ] = True,
    output: RunsFolder = None,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Make a version of a run, finished or still training, or of a folder.

    Everything that the version needs is copied. One of a run that still trains is completed when the run is finished
    and the version is used, or registered again.
    """
    from tunesmith.cli.progress import showing
    from tunesmith.jobs.registry import register as register_source

    store = _open(registry)
    wanted = _wanted(name, alias, stage, description, language, with_base=with_base, checkpoints=checkpoints)
    with _view() as view:
        done = register_source(
            store,
            source,
            runs_folder(output),
            wanted,
            showing(view),
            on_progress=_on_progress(view),
            base_name=base,
        )
    for warning in done.warnings:
        note(f"warning: {warning}", "yellow")
    _tell(store, done.version.address, as_json=as_json)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Versions of this name only.")] = None,
    *,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """List versions, oldest first."""
    from tunesmith.cli.registry_view import print_versions
    from tunesmith.jobs.registry import version_json
    from tunesmith.registry.names import check_name
    from tunesmith.registry.versions import model_names, read_versions

    store = _open(registry)
    names = model_names(store) if name is None else [check_name(name)]
    found = [version_json(version, store) for one in names for version in read_versions(store, one)]
    if as_json:
        out_json(found)
    elif not found:
        out(f"no versions in {_shown(store)}" if name is None else f"no versions of {name} in {_shown(store)}")
    else:
        print_versions(found)


@app.command()
def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="support-router:3 or support-router@production.")],
    *,
    card: Annotated[bool, typer.Option("--card", help="Print the model card.")] = False,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Show a version: lineage, metrics, checkpoints and what uses it."""
    from tunesmith.catalog.registered import find_registered
    from tunesmith.cli.registry_view import print_version
    from tunesmith.jobs.registry import lineage, version_json
    from tunesmith.registry.blobs import blob_path
    from tunesmith.registry.reading import part_of

    store = _open(registry)
    found = find_registered(version, store)
    if card:
        part_of(store, found.version)
        assert found.version.record is not None
        out(store.read(blob_path(found.version.record.files["README.md"])).decode().rstrip())
        return
    data = version_json(found, store)
    chain = lineage(store, found.version)
    data["lineage"] = [one.address for one in chain]
    if as_json:
        out_json(data)
    else:
        print_version(data, chain)


@app.command()
def promote(
    version: Version,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="staging, production or archived.")],
    *,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Let a stage stand for a version; name@production then means it."""
    _label(version, stage, "stage", registry, as_json=as_json)


@app.command()
def alias(
    version: Version,
    word: Annotated[str, typer.Argument(metavar="WORD", help="The alias.")],
    *,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Let a word of your own stand for a version."""
    _label(version, word, "alias", registry, as_json=as_json)


@app.command()
def withdraw(
    label: Annotated[str, typer.Argument(metavar="NAME@LABEL", help="Such as support-router@production.")],
    *,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Take a stage or an alias away."""
    from tunesmith.registry.names import parse_address
    from tunesmith.registry.references import remove_label

    address = parse_address(label)
    if address.label is None:
        raise UsageError("a stage or an alias is named", code="usage.label", value=label, hint="name@production")
    remove_label(_open(registry), address.name, address.label)
    _said({"withdrawn": label}, f"{label} means nothing any more", as_json=as_json)


@app.command()
def release(
    version: Version,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Its id, as `registry show` tells it.")],
    *,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Take a reference away whose user is gone without a word."""
    from tunesmith.registry.references import release as release_reference

    found = _exactly(version, registry)
    release_reference(found.store, found.version.name, found.version.number, reference)
    _said({"released": reference}, f"released {reference}", as_json=as_json)


@app.command()
def remove(
    version: Version,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also one with a stage or an alias.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Take a version out of use for good; its number is not given again.

    One that something uses is refused, whatever is said here. Its files go with the next gc.
    """
    from tunesmith.registry.references import remove_version

    found = _exactly(version, registry)
    _confirm(f"remove {found.version.address} for good?", yes=yes)
    remove_version(found.store, found.version.name, found.version.number, with_labels=force)
    address = found.version.address
    _said({"removed": address}, f"removed {address}; `tunesmith registry gc` frees its space", as_json=as_json)


@app.command()
def gc(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it; without this it is only told.")] = False,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Remove files that no version needs, and what killed commands left behind."""
    from tunesmith.catalog.cache import cache_folder
    from tunesmith.registry.collect import collect, find_garbage

    store, cache = _open(registry), cache_folder() / "registry"
    garbage = collect(store, cache) if yes else find_garbage(store, cache)
    data = {
        "removed": yes,
        "files": [file.path for file in garbage.files],
        "size_bytes": garbage.size_bytes,
        "unfinished": list(garbage.numbers),
        "folders": [str(folder) for folder in garbage.folders],
    }
    parts = [count(len(garbage.files), "file"), storage(garbage.size_bytes)]
    parts += [count(len(garbage.folders), "folder of the cache", "folders of the cache")] if garbage.folders else []
    parts += [count(len(garbage.numbers), "version that was never finished", "versions that were never finished")]
    shown = ", ".join(parts if garbage.numbers else parts[:-1])
    verb = "removed" if yes else "can go, say --yes to remove it:"
    _said(data, f"{verb} {shown}", as_json=as_json)


@app.command()
def push(
    version: Version,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="hub:org/name, mlflow:NAME or oci://host/repository:tag.")
    ],
    *,
    with_report: Annotated[
        bool, typer.Option("--with-report", help="Also recipe and report, which hold rows of the data.")
    ] = False,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Send a version to the Hugging Face hub, MLflow or an OCI registry."""
    from tunesmith.catalog.registered import find_registered
    from tunesmith.jobs.registry import push as push_version

    found = find_registered(version, _open(registry))
    with _view() as view:
        place = push_version(found, target, with_report=with_report, on_progress=_on_progress(view))
    _said({"version": found.version.address, "pushed": place}, f"{found.version.address} is {place}", as_json=as_json)


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="hub:org/name, mlflow:NAME or oci://host/repository:tag.")
    ],
    name: Name,
    *,
    alias: Aliases = None,
    stage: Stage = None,
    description: Description = "",
    language: Language = None,
    with_base: WithBase = False,
    base: BaseName = None,
    registry: Where = None,
    as_json: AsJson = False,
) -> None:
    """Make a version of what lies elsewhere; its hashes are checked where it brings them."""
    from tunesmith.jobs.registry import fetch

    store = _open(registry)
    wanted = _wanted(name, alias, stage, description, language, with_base=with_base)
    with _view() as view:
        version = fetch(store, source, wanted, _on_progress(view), base_name=base)
    _tell(store, version.address, as_json=as_json)


def _open(registry: str | None) -> Store:
    from tunesmith.registry.place import open_registry

    return open_registry(registry)


def _wanted(
    name: str,
    alias: list[str] | None,
    stage: str | None,
    description: str,
    language: str | None,
    *,
    with_base: bool,
    checkpoints: bool = True,
) -> Wanted:
    from tunesmith.jobs.registry import Wanted as How

    return How(name, tuple(alias or ()), stage, description, language, with_base, checkpoints)


def _exactly(version: str, registry: str | None) -> Registered:
    """A version by its number; whoever removes something should not do it by a word that moves."""
    from tunesmith.catalog.registered import Registered as Found
    from tunesmith.registry.names import parse_address
    from tunesmith.registry.versions import find_version, read_version

    store, address = _open(registry), parse_address(version)
    if address.version is None or address.step is not None:
        raise UsageError("a version is named by its number", code="usage.version", value=version, hint="name:3")
    found = read_version(store, address.name, address.version)
    # One that was never finished can be removed too.
    usable = found is not None and found.state != "removed"
    return Found(store, address, found if usable and found is not None else find_version(store, address))


def _label(version: str, label: str, kind: str, registry: str | None, *, as_json: bool) -> None:
    from tunesmith.catalog.registered import find_registered
    from tunesmith.registry.names import check_labels
    from tunesmith.registry.references import set_label

    check_labels([label], kind)
    store = _open(registry)
    found = find_registered(version, store).version
    before = set_label(store, found.name, found.number, label)
    was = f", before {found.name}:{before}" if before not in (None, found.number) else ""
    data = {"label": f"{found.name}@{label}", "version": found.address, "before": before}
    _said(data, f"{found.name}@{label} is {found.address}{was}", as_json=as_json)


def _confirm(question: str, *, yes: bool) -> None:
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here", code="usage.confirm", hint="say --yes to do it without asking")
    if not typer.confirm(question, err=True):
        raise typer.Abort


def _tell(store: Store, address: str, *, as_json: bool) -> None:
    from tunesmith.catalog.registered import find_registered
    from tunesmith.cli.registry_view import print_version
    from tunesmith.jobs.registry import lineage, version_json

    found = find_registered(address, store)
    data = version_json(found, store)
    if as_json:
        out_json(data)
        return
    print_version(data, lineage(store, found.version))


def _said(data: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        out_json(data)
    else:
        out(text)


def _shown(store: Store) -> str:
    return store.url if store.local is None else short_path(store.local)


@contextmanager
def _view() -> Iterator[View]:
    from tunesmith.cli.progress import open_view

    with open_view() as view:
        yield view


def _on_progress(view: View) -> Any:
    from tunesmith.cli.event_lines import position

    def on_progress(what: str, done: int, total: int | None, unit: str) -> None:
        view.show(position(what, done, total, unit))

    return on_progress
