"""The engines of one server, each with the models that its runtime serves."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tunesmith.inference.batching.scheduler import BatchingEngine, Opened
from tunesmith.inference.batching.turns import Turns
from tunesmith.inference.catalog import ModelCatalog
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import Engine, Request
from tunesmith.inference.shelf import Shelf
from tunesmith.wire.serving import Runtime, ServedModel, Service


class Engines:
    """All engines as one; a request goes to that of its model."""

    def __init__(self, engines: Mapping[Runtime, Engine], models: Mapping[str, ServedModel]) -> None:
        self._engines = engines
        self._models = models

    def start(self) -> None:
        """Begin to answer."""
        for engine in self._engines.values():
            engine.start()

    def submit(self, request: Request) -> None:
        """As in :class:`tunesmith.inference.requests.Engine`."""
        self._engines[self._models[request.model].runtime].submit(request)

    def close(self) -> None:
        """Answer what was taken, then end."""
        for engine in self._engines.values():
            engine.close()


def make_engines(service: Service, catalog: ModelCatalog, metrics: Metrics) -> Engines:
    """The engines that the served models need."""
    writing = {name: entry.model for name, entry in catalog.entries.items() if entry.kind == "writes"}
    engines: dict[Runtime, Engine] = {}
    for runtime in sorted({model.runtime for model in writing.values()}):
        own = {name: model for name, model in writing.items() if model.runtime == runtime}
        # Versions that come late are PyTorch's.
        served = catalog.models() if runtime == "torch" else own
        engines[runtime] = _engine(runtime, served, service, metrics)
    return Engines(engines, catalog.models())


def _engine(runtime: Runtime, served: Mapping[str, ServedModel], service: Service, metrics: Metrics) -> Engine:
    if runtime == "llama.cpp":
        from tunesmith.inference.llama_engine import LlamaEngine

        return LlamaEngine(
            served,
            metrics,
            rows_at_once=service.rows_at_once,
            most_waiting=service.most_waiting,
            threads=torch.get_num_threads(),
        )
    if runtime == "vllm":
        from tunesmith.inference.vllm_engine import VllmEngine

        return VllmEngine(
            served,
            metrics,
            rows_at_once=service.rows_at_once,
            most_waiting=service.most_waiting,
            adapters_in_memory=service.adapters_in_memory,
        )
    shelf: Shelf[Opened]
    loads = Turns()
    if runtime == "onnx":
        from tunesmith.inference.batching.onnx_pool import OnnxWriters

        exported = OnnxWriters(served, service.execution_provider)
        shelf = Shelf(service.adapters_in_memory, exported.open, exported.close, loads)
    else:
        from tunesmith.inference.batching.writers import Writers

        writers = Writers(served)
        shelf = Shelf(service.adapters_in_memory, writers.open, writers.close, loads)
    return BatchingEngine(
        shelf, metrics, rows_at_once=service.rows_at_once, most_waiting=service.most_waiting, loads=loads
    )
