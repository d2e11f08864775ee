"""GGUF as a form of export: the file, and a Modelfile by which Ollama takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.export.form import Options
from tunesmith.export.gguf.families import context_length
from tunesmith.export.gguf.modelfile import modelfile
from tunesmith.export.gguf.runtime import open_llama, require_xllamacpp
from tunesmith.export.gguf.write import require_writable, write_gguf
from tunesmith.export.merged import require_merged, whole_folder
from tunesmith.export.runtime import TextRuntime
from tunesmith.export.source import Source, stop_tokens
from tunesmith.models.check import read_config
from tunesmith.runs.atomic import telling_output_errors, write_text

FILE = "model.gguf"


def require_gguf(source: Source, options: Options) -> None:
    """Refuse what cannot be written or read back, before anything is.

    Raises:
        UsageError: ``usage.missing_extra``.
        ModelError: ``export.gguf_family``, ``model.merge``.
        DataError: ``export.gguf_length``.
    """
    require_xllamacpp()
    require_merged(source, options)
    require_writable(source.folder)
    most = context_length(read_config(source.folder))
    if options.longest >= most:
        raise DataError(
            "a row is longer than llama.cpp may read of this model",
            code="export.gguf_length",
            place=source.name,
            value=f"{options.longest} tokens, fewer than {most}",
            hint="give shorter rows with --data FILE",
        )


def write_gguf_folder(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Write model.gguf and Modelfile.

    Raises:
        ModelError: The tokenizer or a tensor has no place in the file.
        OutputError: The folder cannot be written or the disk is full.
    """
    whole = whole_folder(source, options)
    config = read_config(whole)
    options.say(f"writing {FILE} as {options.precision}")
    with telling_output_errors(folder):
        notes = write_gguf(whole, source.tokenizer, folder / FILE, options.precision, source.name)
    if notes:
        options.warn("; ".join(notes))
    text = modelfile(source.tokenizer, FILE, stop_tokens(source), context_length(config))
    write_text(folder / "Modelfile", text)
    return {"file": FILE, "architecture": config.model_type}


@contextmanager
def open_gguf(folder: Path, source: Source, options: Options) -> Iterator[TextRuntime]:
    """The file in llama.cpp."""
    config = read_config(source.folder)
    vocabulary = max(int(config.vocab_size), 1 + max(source.tokenizer.get_vocab().values()))
    plain = _plain_token(source.tokenizer)
    context = min(options.longest, context_length(config))
    with open_llama(folder / FILE, vocabulary, context, options.threads, plain) as runtime:
        yield runtime


def _plain_token(tokenizer: Any) -> int:
    """A token that is one character of ASCII."""
    vocabulary = tokenizer.get_vocab()
    return next((int(vocabulary[letter]) for letter in "abcdefghijklmnopqrstuvwxyz" if letter in vocabulary), 0)
