"""Save what was trained, with everything that is needed to use and to understand it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tunesmith.catalog.heads import write_head
from tunesmith.data.shown import pieces_of
from tunesmith.pipeline.prepare import Prepared, head_of, reader_of
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import new_folder, write_json, write_text
from tunesmith.runs.layout import RunFolder
from tunesmith.techniques.base import Technique
from tunesmith.techniques.table import make_technique


def save_result(run: RunFolder, prepared: Prepared, resolved: Resolved, technique: Technique, model: Any) -> None:
    """Write the adapter or model folder whole or not at all; one that an earlier attempt wrote is replaced.

    Beside the weights lie the tokenizer with its chat template, the recipe, the resolved values and one training row
    as the template renders it, with what trains in it marked; also what a head does and its labels, where there is one.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    target = run.adapter if technique.artifact == "adapter" else run.model
    shutil.rmtree(target, ignore_errors=True)
    save_weights(target, run, prepared, resolved, model)


def save_weights(target: Path, run: RunFolder, prepared: Prepared, resolved: Resolved, model: Any) -> None:
    """Write such a folder anywhere; errors as in :func:`save_result`."""
    with new_folder(target) as scratch:
        make_technique(resolved.technique).save(model, scratch, base_name(prepared))
        prepared.tokenizer.save_pretrained(scratch)
        head = head_of(prepared, resolved.objective, resolved.seed)
        if head is not None:
            write_head(scratch, head)
        shutil.copyfile(run.recipe, scratch / "recipe.yaml.txt")
        write_json(scratch / "resolved.json", resolved.to_json())
        write_text(scratch / "rendered_example.txt", _example(prepared, resolved))


def base_name(prepared: Prepared) -> str:
    """The name by which PEFT finds the base model: its id, or its folder."""
    reference = prepared.model.reference
    return reference.name if reference.kind in ("catalog", "hub") else str(prepared.model.folder)


def _example(prepared: Prepared, resolved: Resolved) -> str:
    reader = reader_of(prepared, resolved.objective)
    pieces = pieces_of(prepared.tokenizer, prepared.train[0], None if reader is None else reader.name)
    if reader is not None:
        text = "".join(f"[[{piece.text} = {piece.label}]]" if piece.trained else piece.text for piece in pieces)
        return f"The first training row as the model sees it; labels stand in [[ ]] behind their tokens.\n\n{text}\n"
    marked = "".join(f"[[{piece.text}]]" if piece.trained else piece.text for piece in pieces)
    text = marked.replace("]][[", "")
    return f"The first training row as the model sees it; what it learns to write stands in [[ ]].\n\n{text}\n"
