"""One serving process: its models, its engines, its web server, from the first answer to the last."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import uvicorn

from tunesmith.errors import TunesmithError, WorkerError
from tunesmith.generation import Decoding
from tunesmith.inference.catalog import Entry, ModelCatalog
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.embedder import Embedder, load_embedder
from tunesmith.inference.engines import Engines, make_engines
from tunesmith.inference.late import LateVersions
from tunesmith.inference.loading import load
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.paths.app import make_app
from tunesmith.inference.requests import Answer, Request
from tunesmith.inference.served import kind_of
from tunesmith.inference.shelf import Shelf
from tunesmith.models.check import model_kind, read_config
from tunesmith.runs.atomic import write_json
from tunesmith.storage.address import open_store
from tunesmith.wire.serving import ServedModel, Service

_LAST_ANSWERS_SECONDS = 60


def serve(service: Service, listener: socket.socket, ready_file: Path) -> None:
    """Answer until the process is told to end; streams that are under way are finished first.

    Raises:
        TunesmithError: A model cannot be loaded.
    """
    entries = {model.name: Entry(model, kind_of(model)) for model in service.models}
    late = _late(service)
    catalog, metrics = ModelCatalog(entries, late), Metrics()
    engines = make_engines(service, catalog, metrics)
    shelf = _shelf(catalog.entries, service.adapters_in_memory)
    metrics.watch(shelf.names)
    ready = threading.Event()
    app = make_app(catalog, engines, shelf, metrics, keys=service.keys, ready=ready)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS
    )
    server = uvicorn.Server(config)
    # uvicorn sends itself the signal again once it has shut down; the process shall end as planned, not by a signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    failed: list[BaseException] = []

    def warm_up() -> None:
        try:
            _answer_once(entries, engines, shelf)
        except BaseException as error:
            failed.append(error)
            server.should_exit = True
            return
        ready.set()
        write_json(ready_file, {"port": listener.getsockname()[1], "pid": os.getpid()})

    engines.start()
    warming = threading.Thread(target=warm_up, name="warm-up", daemon=True)
    warming.start()
    try:
        server.run(sockets=[listener])
    finally:
        ready_file.unlink(missing_ok=True)
        if late is not None:
            late.close()
    if failed:
        raise failed[0] if isinstance(failed[0], TunesmithError) else _unexpected(failed[0])
    if not ready.is_set():
        # Told to end while a model is still being loaded, for nobody any more.
        return
    engines.close()
    shelf.close()


def _late(service: Service) -> LateVersions | None:
    if service.registry is None:
        return None
    bases = [model.folder for model in service.models if model.runtime == "torch"]
    return LateVersions(open_store(service.registry), bases)


def _unexpected(error: BaseException) -> WorkerError:
    return WorkerError(
        "the first answer failed", code="inference.not_started", value=f"{type(error).__name__}: {error}"
    )


def _answer_once(entries: Mapping[str, Entry], engines: Engines, shelf: Shelf[Classifier | Embedder]) -> None:
    """Load every base, each by one real answer; adapters come when they are asked for."""
    seen: set[tuple[Path, str]] = set()
    waiting: list[Future[list[Answer]]] = []
    for name, entry in sorted(entries.items(), key=lambda item: item[1].model.adapter is not None):
        key = (entry.model.folder, entry.kind)
        if key in seen:
            continue
        seen.add(key)
        if entry.kind != "writes":
            loaded = shelf.take(name).result()
            shelf.give_back(name)
            if isinstance(loaded, Embedder):
                loaded.embed(["ready"])
            continue
        request = Request(name, [secrets.randbelow(8) + 1], Decoding(max_new_tokens=1))
        engines.submit(request)
        waiting.append(request.done)
    for done in waiting:
        done.result()


def _shelf(entries: Mapping[str, Entry], most: int) -> Shelf[Classifier | Embedder]:
    def open_one(name: str) -> Classifier | Embedder:
        entry = entries[name]
        return load_embedder(entry.model.folder) if entry.kind == "embeds" else _classifier(entry.model)

    return Shelf(most, open_one, lambda _: None)


def _classifier(model: ServedModel) -> Classifier:
    import torch

    from tunesmith.generation.plan import context_length

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load(model.folder, model.adapter, torch.float32, device)
    assert loaded.head is not None
    both_ways = model_kind(read_config(model.folder)) == "encoder"
    context = context_length(loaded.model)
    return Classifier(loaded.model, loaded.tokenizer, loaded.head, both_ways=both_ways, context=context)
