"""A GGUF file in llama.cpp, through the prebuilt package xllamacpp: the same questions as to any other runtime.

llama.cpp answers with the probabilities of a token that it draws, so each place of a row is a request of its own; what
stands before it is kept from the request before.

Shape suffixes: T tokens of a row, L places of a row, K likeliest tokens.
"""

from __future__ import annotations

import gc
import json
import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np

from tunesmith.errors import ModelError, missing_extra
from tunesmith.export.runtime import LIKELIEST, Likeliest

_SPARE_TOKENS = 8
# Probabilities below what a float of 32 bits can hold come as this.
_LEAST = -100.0
# Added to a token's score this leaves nothing to chance.
_CERTAINLY = 1e6
_PATIENCE_SECONDS = 600.0


class LlamaRuntime:
    """One loaded file; answers come one at a time."""

    def __init__(self, server: Any, vocabulary_size: int, plain_token: int) -> None:
        self._server = server
        self._vocabulary_size = vocabulary_size
        self._plain_token = plain_token

    def likeliest(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Likeliest:
        """As in :class:`tunesmith.export.runtime.TextRuntime`."""
        count = min(LIKELIEST, self._vocabulary_size)
        ids_L_K = np.full((len(positions_L), count), -1, dtype=np.int64)
        found_L_K = np.full((len(positions_L), count), _LEAST, dtype=np.float64)
        for place, position in enumerate(positions_L):
            # Probabilities are those before anything is drawn. What is drawn must be a whole character, or the answer
            # would wait for the rest of it.
            answer = self._complete(
                token_ids_T[: position + 1], 1, n_probs=count, logit_bias=[[self._plain_token, _CERTAINLY]]
            )
            for rank, one in enumerate(answer["completion_probabilities"][0]["top_logprobs"][:count]):
                ids_L_K[place, rank] = one["id"]
                found_L_K[place, rank] = max(_LEAST, _LEAST if one["logprob"] is None else one["logprob"])
        return Likeliest(ids_L_K, found_L_K)

    def continue_greedily(
        self, prompt_T: Sequence[int], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[int]:
        """The likeliest tokens one after the other, up to a stop token."""
        tokens = [int(token) for token in self._complete(prompt_T, max_new_tokens, return_tokens=True)["tokens"]]
        ends = [at for at, token in enumerate(tokens) if token in stop_token_ids]
        return tokens[: ends[0]] if ends else tokens

    def encode(self, text: str) -> list[int]:
        """The text as tokens, by the tokenizer of the file, special tokens around it included."""
        answer = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return [int(token) for token in answer["tokens"]]

    def close(self) -> None:
        """Let go of the model."""
        self._server = None
        gc.collect()

    def _complete(self, prompt_T: Sequence[int], tokens: int, **extra: Any) -> dict[str, Any]:
        return self._post(
            "/completion",
            {
                "prompt": [int(token) for token in prompt_T],
                "n_predict": tokens,
                "top_k": 1,
                "samplers": ["top_k"],
                "cache_prompt": True,
                **extra,
            },
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - our own server on the loopback
            f"{self._server.listening_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:  # noqa: S310
                return dict(json.loads(answer.read()))
        except (OSError, ValueError) as error:
            told = error.read().decode("utf-8", "replace") if isinstance(error, HTTPError) else str(error)
            raise ModelError("llama.cpp does not answer", code="export.llama", place=path, value=told[:300]) from error


@contextmanager
def open_llama(
    path: Path, vocabulary_size: int, context: int, threads: int, plain_token: int
) -> Iterator[LlamaRuntime]:
    """Load a file for the time of the block.

    Args:
        path: The GGUF file.
        vocabulary_size: Tokens that the model tells apart.
        context: Most tokens of a text with its answer.
        threads: Processor threads.
        plain_token: A token that is one character of ASCII.

    Raises:
        UsageError: ``usage.missing_extra``.
        ModelError: ``export.llama``: llama.cpp does not take the file.
    """
    require_xllamacpp()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = os.fspath(path)
    params.n_ctx = context + _SPARE_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.ui = False
    params.fit_params = False
    params.offline = True
    params.verbosity = -1
    try:
        runtime = LlamaRuntime(xllamacpp.Server(params), vocabulary_size, plain_token)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            "llama.cpp does not take the file", code="export.llama", place=path.name, value=str(error)[:300]
        ) from error
    try:
        yield runtime
    finally:
        runtime.close()


def require_xllamacpp() -> None:
    """Refuse where llama.cpp is not installed: an export that nobody has read is none.

    Raises:
        UsageError: ``usage.missing_extra``.
    """
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        raise missing_extra(
            "GGUF files are checked in llama.cpp, by the package xllamacpp, which is not installed",
            "gguf",
            place="--to gguf",
        )
