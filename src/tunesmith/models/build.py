"""What a config describes: the class that builds it, the labels of its head, and the model itself without weights.

A model without weights lies on torch's meta device: every matrix has its shape and no numbers, whatever its size.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith.catalog.heads import Head
from tunesmith.errors import ModelError
from tunesmith.models.check import model_kind, read_config
from tunesmith.models.quiet import quiet_libraries


def auto_class(config: Any, head: Head | None) -> Any:
    """The class of Transformers that builds what a config describes, with a head or as it writes."""
    import transformers

    if head is None:
        return {
            "causal": transformers.AutoModelForCausalLM,
            "encoder": transformers.AutoModel,
            "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
        }[model_kind(config) or "causal"]
    return {
        "sequence_classification": transformers.AutoModelForSequenceClassification,
        "token_classification": transformers.AutoModelForTokenClassification,
        "question_answering": transformers.AutoModelForQuestionAnswering,
    }[head.kind]


def set_labels(config: Any, head: Head) -> None:
    """Write the labels into the config, where every program that loads the model later finds them."""
    if head.kind == "question_answering":
        config.num_labels = 2
        return
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: number for number, label in enumerate(head.labels)}
    if head.kind == "sequence_classification":
        config.problem_type = "single_label_classification"
        if config.pad_token_id is None:
            # Batches of other programs need one; which token pads changes nothing.
            eos = config.eos_token_id
            config.pad_token_id = eos[0] if isinstance(eos, list) else eos


def build_empty(config: Any, head: Head | None, place: str) -> Any:
    """The model of a Transformers config, without weights, in eval mode.

    Args:
        config: As :func:`tunesmith.models.check.read_config` gives it.
        head: What an objective puts on the model; None as it writes.
        place: Where the config is from, for the error.

    Raises:
        ModelError: ``model.broken_config``: no model can be built from it.
    """
    try:
        with quiet_libraries(), torch.device("meta"):
            return auto_class(config, head).from_config(config).eval()
    except Exception as error:
        # Each model class checks its own numbers, with errors of many kinds.
        raise ModelError(
            "config.json has values that no model can be built from",
            code="model.broken_config",
            place=place,
            value=f"{type(error).__name__}: {str(error).strip()[:200]}",
            hint="fetch or copy the model again",
        ) from error


def empty_model(values: Mapping[str, Any], head: Head | None = None) -> Any:
    """The model of a config.json's content, without weights; nothing is fetched.

    Raises:
        ModelError: As :func:`tunesmith.models.check.read_config` and :func:`build_empty`.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(values)), encoding="utf-8")
        config = read_config(Path(folder))
    if head is not None:
        set_labels(config, head)
    return build_empty(config, head, "config.json")
