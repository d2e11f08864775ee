"""What a request's ``model`` means to the paths of the server: how to read its prompts, who answers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.generation.plan import context_length
from tunesmith.inference.failures import RefusedError
from tunesmith.inference.late import LateVersions
from tunesmith.inference.llama_engine import CONTEXT_TOKENS_A_ROW
from tunesmith.inference.prompts import Tokenizers
from tunesmith.inference.served import Kind, kind_of
from tunesmith.inference.token_texts import TokenTexts
from tunesmith.models.check import read_config
from tunesmith.models.new_tokens import tokenizer_folder
from tunesmith.runs.atomic import read_json
from tunesmith.wire.serving import ServedModel

_ASK = {
    "writes": "this model writes texts; ask it by /v1/chat/completions or /v1/completions",
    "labels": "this model puts labels on texts and writes none; use `tunesmith classify`, "
    "tunesmith.load(...).classify, or /v1/classify",
    "embeds": "this model makes vectors of texts; ask it by /v1/embeddings",
}
_CODES = {"writes": "model_writes", "labels": "model_classifies", "embeds": "model_embeds"}


@dataclass(frozen=True)
class Entry:
    """A served model, what it does, and since when."""

    model: ServedModel
    kind: Kind


class ModelCatalog:
    """The served models by name; versions that come late are added when they are first asked for.

    Args:
        entries: In the order in which they are listed.
        late: Finds versions of the registry that are not among them; None where only those are served.
    """

    def __init__(self, entries: Mapping[str, Entry], late: LateVersions | None = None) -> None:
        self.entries = dict(entries)
        self._late = late
        self.tokenizers = Tokenizers()
        self._texts: dict[Path, TokenTexts] = {}

    def find(self, name: str) -> Entry:
        """The entry of a name; its own name may be another, where a stage or an alias was asked for.

        Raises:
            RefusedError: There is none.
        """
        entry = self.entries.get(name)
        late = self._late.find(name) if entry is None and self._late is not None else None
        if late is not None:
            entry = self.entries.setdefault(late.name, Entry(late, kind_of(late)))
        if entry is None:
            known = ", ".join(list(self.entries))
            raise RefusedError(
                404,
                f"The model `{name}` does not exist; served here: {known}",
                param="model",
                code="model_not_found",
            )
        return entry

    def require(self, name: str, kind: Kind) -> ServedModel:
        """The model of a name.

        Raises:
            RefusedError: There is none, or it does something else.
        """
        entry = self.find(name)
        if entry.kind != kind:
            raise RefusedError(400, _ASK[entry.kind], param="model", code=_CODES[entry.kind])
        return entry.model

    def models(self) -> Mapping[str, ServedModel]:
        """A view of the models by name, with those that come late."""
        return _Models(self.entries)

    def tokenizer(self, model: ServedModel) -> Any:
        """A model's tokenizer; used under the lock of :attr:`tokenizers`."""
        return self.tokenizers.of(_tokenizer_place(model))

    def texts(self, model: ServedModel) -> TokenTexts:
        """The texts of its tokens."""
        folder = _tokenizer_place(model)
        with self.tokenizers.lock:
            if folder not in self._texts:
                self._texts[folder] = TokenTexts(self.tokenizers.of(folder))
            return self._texts[folder]

    def context(self, model: ServedModel) -> int | None:
        """The most tokens of prompt and answer together, None where there is no limit."""
        if model.runtime == "onnx":
            return int(read_json(model.folder / "genai_config.json")["model"]["context_length"])
        if model.runtime == "llama.cpp":
            return min(gguf_context(model.folder), CONTEXT_TOKENS_A_ROW)
        length = context_length(_Configured(read_config(model.folder)))
        virtual = 0
        if model.adapter is not None:
            virtual = int(read_json(model.adapter / "adapter_config.json").get("num_virtual_tokens") or 0)
        return None if length is None else length - virtual


class _Models(Mapping[str, ServedModel]):
    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> ServedModel:
        return self._entries[name].model

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def _tokenizer_place(model: ServedModel) -> Path:
    return tokenizer_folder(model.folder, model.adapter) if model.runtime in ("torch", "vllm") else model.folder


def gguf_context(path: Path) -> int:
    """The context that a GGUF file says its model has."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    architecture = str(fields["general.architecture"].contents())
    return int(fields[f"{architecture}.context_length"].contents())


@dataclass(frozen=True)
class _Configured:
    """As much of a model as its context needs."""

    config: Any
