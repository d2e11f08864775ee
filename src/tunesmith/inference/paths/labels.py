"""``/v1/classify`` for models with heads, ``/v1/embeddings`` for encoders."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from tunesmith.inference.catalog import ModelCatalog
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.embedder import Embedder
from tunesmith.inference.failures import RefusedError
from tunesmith.inference.shelf import Shelf
from tunesmith.wire.classify import Classification, ClassificationUsage, ClassifyRequest
from tunesmith.wire.embeddings import MOST_INPUTS, Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage

Kind = TypeVar("Kind")

# They take turns anyhow. With more, those who wait for one of these models would take the threads that read prompts.
_THREADS = 8


def label_router(catalog: ModelCatalog, shelf: Shelf[Classifier | Embedder]) -> APIRouter:
    """The paths, over the models of a catalog; whatever answers them is opened by a shelf."""
    router = APIRouter()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="labels")

    @router.post("/v1/classify", response_model=None)
    async def classify(body: ClassifyRequest) -> Response:
        return await asyncio.get_running_loop().run_in_executor(threads, classify_now, body)

    @router.post("/v1/embeddings", response_model=None)
    async def embed(body: EmbeddingRequest) -> Response:
        return await asyncio.get_running_loop().run_in_executor(threads, embed_now, body)

    def classify_now(body: ClassifyRequest) -> Response:
        model = catalog.require(body.model, "labels")
        with _used(shelf, model.name, Classifier) as classifier:
            data, tokens = classifier.classify(body.input)
        usage = ClassificationUsage(prompt_tokens=tokens, total_tokens=tokens)
        found = Classification(model=body.model, data=data, usage=usage)
        return JSONResponse(found.model_dump(exclude_none=True))

    def embed_now(body: EmbeddingRequest) -> Response:
        model = catalog.require(body.model, "embeds")
        inputs = body.inputs()
        if not 1 <= len(inputs) <= MOST_INPUTS:
            raise RefusedError(
                400, f"between 1 and {MOST_INPUTS} inputs are taken", param="input", code="invalid_value"
            )
        with _used(shelf, model.name, Embedder) as embedder:
            vectors, tokens = embedder.embed(inputs)
        if body.dimensions is not None and body.dimensions != vectors.shape[1]:
            raise RefusedError(
                400,
                f"this model's vectors have {vectors.shape[1]} dimensions and cannot be cut",
                param="dimensions",
                code="invalid_value",
            )
        as_text: Callable[..., str | list[float]] = _base64 if body.encoding_format == "base64" else _numbers
        data = [Embedding(index=at, embedding=as_text(vector)) for at, vector in enumerate(vectors)]
        usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        return JSONResponse(EmbeddingList(data=data, model=body.model, usage=usage).model_dump())

    return router


def _base64(vector: object) -> str:
    import numpy as np

    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _numbers(vector: object) -> list[float]:
    import numpy as np

    return [float(value) for value in np.asarray(vector)]


@contextmanager
def _used(shelf: Shelf[Classifier | Embedder], name: str, kind: type[Kind]) -> Iterator[Kind]:
    loading = shelf.take(name)
    try:
        found = loading.result()
        assert isinstance(found, kind)
        yield found
    finally:
        shelf.give_back(name)
