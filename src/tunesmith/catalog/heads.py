"""The head of a saved model or adapter, without loading it: what it does and the labels that it chooses from.

FOLDER/head.json     beside weights or an adapter that were trained here
FOLDER/config.json   of a model that another program saved with a head
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import ModelError
from tunesmith.runs.atomic import read_json, write_json

HEAD_FILE = "head.json"
# Names that model classes give the last layer of a head, and the layers that some put between it and the model.
OUTPUT_LAYERS = ("classifier", "score", "qa_outputs")
HEAD_LAYERS = (*OUTPUT_LAYERS, "pre_classifier", "pooler")
HeadKind = Literal["sequence_classification", "token_classification", "question_answering"]
_KIND_OF_CLASS: dict[str, HeadKind] = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}


@dataclass(frozen=True)
class Head:
    """What is put on a model in place of its output matrix, and the labels that it chooses from, in their order.

    ``labels`` are tags where words are classified, and empty where answers are marked. Weights that a model folder does
    not have, or has for other labels, are drawn by ``seed``, so that the model before training can be had again.
    """

    kind: HeadKind
    labels: tuple[str, ...] = ()
    seed: int = 0

    @property
    def task_labels(self) -> tuple[str, ...]:
        """The labels of the task: without the marks that make tags of them."""
        if self.kind != "token_classification":
            return self.labels
        return tuple(dict.fromkeys(label[2:] for label in self.labels if label[1:2] == "-"))


def write_head(folder: Path, head: Head) -> None:
    """Write head.json.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_json(folder / HEAD_FILE, {"format": 1, "kind": head.kind, "labels": list(head.labels), "seed": head.seed})


def read_head(folder: Path) -> Head | None:
    """The head that a folder of weights, or of an adapter, was saved with; None for models that write.

    Raises:
        ModelError: ``model.broken_head``: head.json cannot be understood.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        return _of_config(folder / "config.json")
    try:
        values = read_json(path)
        if values["kind"] not in _KIND_OF_CLASS.values():
            raise ValueError(f"kind {values['kind']!r}")
        return Head(values["kind"], tuple(map(str, values["labels"])), int(values["seed"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "head.json cannot be understood",
            code="model.broken_head",
            place=str(path),
            value=f"{type(error).__name__}: {error}",
            hint="copy the folder again from the run that wrote it",
        ) from error


def _of_config(path: Path) -> Head | None:
    """What Transformers writes; a config that cannot be read is told of by whoever loads the model."""
    try:
        values: Any = read_json(path)
        classes = [str(name) for name in values.get("architectures") or ()]
        names = values.get("id2label") or {}
        labels = tuple(str(names[key]) for key in sorted(names, key=int))
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    for ending, kind in _KIND_OF_CLASS.items():
        if any(name.endswith(ending) for name in classes):
            # Two labels are what a config says where it names none.
            return Head(kind, () if kind == "question_answering" else labels or ("LABEL_0", "LABEL_1"))
    return None
