"""Exported models under the ONNX Runtime GenAI: each row has a generator of its own, and they take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError, missing_extra
from tunesmith.inference.batching.batch import Batch, Writer
from tunesmith.inference.batching.scheduler import Opened
from tunesmith.runs.atomic import read_json
from tunesmith.wire.serving import ServedModel

_PROCESSOR = "cpu"
# Every generator has memory for the whole context; so many tokens are taken for all together.
_CACHE_TOKENS = 2**18


class _Beginning:
    """A prompt that is being read; all of it at once."""

    def __init__(self, pool: OnnxPool, prompt: Sequence[int], adapter: str | None) -> None:
        self.prompt = list(prompt)
        self.adapter = adapter
        self.generator: Any = None
        self._pool = pool

    def advance(self) -> torch.Tensor | None:
        """As in :class:`tunesmith.generation.pools.Beginning`."""
        self.generator = self._pool.new_generator(self.adapter)
        return self._pool.append(self.generator, self.prompt)


class OnnxPool:
    """See :class:`tunesmith.generation.pools.Pool`; ``adapter`` is the name of one that was loaded."""

    def __init__(self, library: Any, model: Any, adapters: Any, context: int) -> None:
        self._library = library
        self._model = model
        self._adapters = adapters
        self._context = context
        self._rows: dict[int, Any] = {}

    @property
    def memory_bytes(self) -> int:
        """Not told by the library."""
        return 0

    def begin(self, prompt: Sequence[int], adapter: str | None) -> _Beginning:
        """As in the protocol."""
        return _Beginning(self, prompt, adapter)

    def join(self, beginning: _Beginning, keys: Sequence[int]) -> None:
        """As in the protocol; generators cannot be copied, so further rows read the prompt again."""
        for at, key in enumerate(keys):
            generator = beginning.generator
            if at:
                generator = self.new_generator(beginning.adapter)
                self.append(generator, beginning.prompt)
            self._rows[key] = generator

    def step(self, keys: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """As in the protocol."""
        pairs = zip(keys, tokens, strict=True)
        return torch.cat([self.append(self._rows[key], [token]) for key, token in pairs])

    def leave(self, key: int) -> None:
        """As in the protocol."""
        del self._rows[key]

    def clear(self) -> None:
        """As in the protocol."""
        self._rows = {}

    def new_generator(self, adapter: str | None) -> Any:
        """A generator that has read nothing."""
        parameters = self._library.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._context, do_sample=False)
        generator = self._library.Generator(self._model, parameters)
        if adapter is not None:
            generator.set_active_adapter(self._adapters, adapter)
        return generator

    def append(self, generator: Any, tokens: Sequence[int]) -> torch.Tensor:
        """Read tokens; scores of the next, ``[1, vocabulary]``."""
        generator.append_tokens(list(tokens))
        scores = torch.from_numpy(generator.get_logits().copy())
        return scores.reshape(-1, scores.shape[-1])[-1:].float()


class OnnxWriters:
    """Opens exported folders by name; meant for a shelf.

    Args:
        served: The models by name: folders with ``genai_config.json``, and ``.onnx_adapter`` files on them.
        execution_provider: Such as ``cuda``; None takes the processor.
    """

    def __init__(self, served: Mapping[str, ServedModel], execution_provider: str | None) -> None:
        self._served = served
        self._provider = execution_provider or _PROCESSOR
        self._bases: dict[Path, tuple[Any, Batch]] = {}

    def open(self, name: str) -> Opened:
        """Load what is not loaded yet.

        Raises:
            ModelError: The folder or the adapter cannot be loaded.
            UsageError: The ONNX Runtime GenAI is not installed, or has no such provider.
        """
        served = self._served[name]
        adapters, batch = self._base(served.folder)
        if served.adapter is None:
            return Opened(batch)
        try:
            adapters.load(str(served.adapter), name)
        except Exception as error:
            raise _cannot_load(served.adapter, error) from error
        return Opened(batch, name)

    def close(self, opened: Opened) -> None:
        """Let an adapter go; the library refuses while it is used."""
        for adapters, batch in self._bases.values():
            if batch is opened.batch and opened.adapter is not None:
                adapters.unload(opened.adapter)

    def _base(self, folder: Path) -> tuple[Any, Batch]:
        if folder not in self._bases:
            library = _library()
            config = read_json(folder / "genai_config.json")["model"]
            try:
                settings = library.Config(str(folder))
                if self._provider != _PROCESSOR:
                    settings.clear_providers()
                    settings.append_provider(self._provider)
                model = library.Model(settings)
                adapters = library.Adapters(model)
            except Exception as error:
                raise _cannot_load(folder, error) from error
            context, vocabulary = int(config["context_length"]), int(config["vocab_size"])
            self._bases[folder] = (
                adapters,
                Batch(
                    Writer(
                        lambda: OnnxPool(library, model, adapters, context),
                        _tokenizer(folder),
                        _ends(config),
                        context,
                        vocabulary,
                        max(context, _CACHE_TOKENS),
                    )
                ),
            )
        return self._bases[folder]


def _library() -> Any:
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise missing_extra("the ONNX Runtime GenAI is not installed", "onnx", value="onnxruntime-genai") from error
    return onnxruntime_genai


def _ends(config: Mapping[str, Any]) -> frozenset[int]:
    ends = config.get("eos_token_id", [])
    return frozenset(int(one) for one in (ends if isinstance(ends, list) else [ends]))


def _tokenizer(folder: Path) -> Any:
    from tunesmith.inference.prompts import Tokenizers

    return Tokenizers().of(folder)


def _cannot_load(place: Path, error: Exception) -> ModelError:
    return ModelError(
        "the exported model cannot be loaded",
        code="model.cannot_load",
        place=str(place),
        value=str(error)[:300],
        hint="export it again with `tunesmith export --to onnx`",
    )
