"""One export from beginning to end: write beside the target, read back, compare, record; only then it has its name."""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, OutputError, Problem
from tunesmith.export.compare_scores import Scored, ask_scores, compare_scores
from tunesmith.export.compare_text import TextReference, TextRows, ask_pytorch, compare_text
from tunesmith.export.form import Options
from tunesmith.export.limits import LIMITS, SCORE_LIMITS
from tunesmith.export.source import Source, load_source
from tunesmith.export.table import score_form, text_form
from tunesmith.export.torch_scores import TorchScores
from tunesmith.export.torch_text import TorchText
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import SCRATCH_MARK, new_folder, remove_path, telling_output_errors, write_json

RECORD = "export.json"
_PACKAGES = (
    "tunesmith",
    "torch",
    "transformers",
    "peft",
    "gguf",
    "xllamacpp",
    "onnxruntime",
    "onnxruntime-genai",
    "onnx",
)


def _no_metrics(_answers: Sequence[Any]) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Check:
    """What an export is checked on.

    ``text`` is for models that write, ``rows`` are tokens for heads and encoders. ``measure`` turns answers (tokens of
    each prompt) or scores (of each row) into task metrics; ``described`` says where rows come from.
    """

    text: TextRows | None
    rows: Sequence[Sequence[int]]
    described: Mapping[str, Any]
    measure: Callable[[Sequence[Any]], dict[str, float]] = _no_metrics


def export_model(source: Source, to: str, target: Path, check: Check, options: Options) -> dict[str, Any]:
    """Write an export, check it, and give its record; it appears under its name only when the check found it right.

    Args:
        source: The model.
        to: A form's name.
        target: The folder to make; it must not exist.
        check: Rows to compare on.
        options: Precision and the like; ``scratch`` is set here.

    Raises:
        ModelError: ``export.check_failed``: the export is too far from PyTorch; or the form refuses the model.
        UsageError: Something that the form needs is not there.
        OutputError: The folder exists, cannot be written, or the disk is full.
    """
    if target.exists():
        raise OutputError("the folder exists already", code="output.exists", place=str(target))
    with telling_output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    # What an export that was killed left behind.
    for leftover in target.parent.glob(f".{target.name}{SCRATCH_MARK}*"):
        remove_path(leftover)
    with _scratch_folder(target) as scratch:
        options = replace(options, scratch=scratch)
        run = _text if source.kind == "text" else _scores
        with new_folder(target) as folder:
            how, checked = run(source, to, folder, check, options)
            record = {
                "format": 1,
                "to": to,
                "precision": options.precision,
                "target": options.target,
                "execution_provider": options.provider,
                "source": _source_part(source),
                "how": how,
                "files": _files(folder),
                "size_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
                "check": {**check.described, **checked},
            }
            write_json(folder / RECORD, record)
    return record


def _text(
    source: Source, to: str, folder: Path, check: Check, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert check.text is not None
    form, limit, rows = text_form(to), LIMITS[(to, options.precision)], check.text
    options = replace(options, longest=rows.longest)
    form.require(source, options)
    how = form.write(source, folder, options)
    checked: dict[str, Any] = {}
    problems: list[Problem] = []
    answers: dict[str, Sequence[Sequence[int]]] = {}
    for one in _each_adapter(source):
        options.say(f"asking PyTorch{_of(one, source)}")
        reference = _reference(one, rows)
        options.say(f"asking the exported model{_of(one, source)}")
        with quiet_libraries(), form.open(folder, one, options) as runtime:
            facts, found, answered = compare_text(reference, runtime, rows, limit)
        facts["metrics"] = {"exported": check.measure(answered.answers), "pytorch": check.measure(reference.answers)}
        problems += [replace(problem, place=one.name) for problem in found]
        answers[one.name] = answered.answers
        if one.name == source.name:
            checked |= facts
        else:
            checked.setdefault("more_adapters", {})[one.name] = facts
        del reference
        gc.collect()
    if form.together is not None and len(answers) > 1 and not problems:
        problems += form.together(folder, answers, rows, options)
        checked["switching"] = f"{len(answers)} adapters in turn answered as each did alone"
    _require_right(problems, to, options.precision)
    return how, checked


def _reference(source: Source, rows: TextRows) -> TextReference:
    with quiet_libraries():
        return ask_pytorch(TorchText(load_source(source), source.tokenizer), rows)


def _scores(
    source: Source, to: str, folder: Path, check: Check, options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    form, limit = score_form(to), SCORE_LIMITS[(to, options.precision)]
    options = replace(options, longest=max(map(len, check.rows), default=1))
    form.require(source, options)
    how = form.write(source, folder, options)
    options.say("asking PyTorch")
    with quiet_libraries():
        reference = ask_scores(TorchScores(load_source(source)), check.rows)
    gc.collect()
    options.say("asking the exported model")
    with quiet_libraries(), form.open(folder, source, options) as runtime:
        exported: Scored = ask_scores(runtime, check.rows)
    facts, problems = compare_scores(reference, exported, limit, has_labels=source.head is not None)
    facts["metrics"] = {"exported": check.measure(exported.scores), "pytorch": check.measure(reference.scores)}
    _require_right(problems, to, options.precision)
    return how, facts


def _require_right(problems: Sequence[Problem], to: str, precision: str) -> None:
    if problems:
        raise ModelError(
            "the export does not say what the model says, so nothing is left of it",
            code="export.check_failed",
            place=f"{to} {precision}",
            hint="choose a precision of more bits, or report it where the precision is the model's own",
            problems=problems,
        )


def _each_adapter(source: Source) -> Iterator[Source]:
    yield source
    for name, adapter in source.more_adapters:
        yield replace(source, name=name, adapter=adapter, more_adapters=())


def _of(one: Source, source: Source) -> str:
    return f", {one.name}" if source.more_adapters else ""


def _source_part(source: Source) -> dict[str, Any]:
    """Which model it was, by hashes of what decides it."""
    adapters = {source.name: source.adapter, **dict(source.more_adapters)}
    return {
        "name": source.name,
        "weights": {path.name: path.stat().st_size for path in sorted(source.folder.glob("*.safetensors"))},
        "config_sha256": _sha256(source.folder / "config.json"),
        "adapters": {
            name: _sha256(folder / "adapter_model.safetensors")
            for name, folder in adapters.items()
            if folder is not None
        },
        "quantization": None if source.quantization is None else source.quantization.kind,
    }


def _files(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    with telling_output_errors(target):
        holder = tempfile.TemporaryDirectory(prefix=f".{target.name}{SCRATCH_MARK}", dir=target.parent)
    with holder as name:
        yield Path(name)
