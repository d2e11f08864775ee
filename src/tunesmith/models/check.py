"""Look at a model folder before any weights are read: is it something that Tunesmith can load?"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, Problem
from tunesmith.models.quiet import quiet_libraries
from tunesmith.recipe.facts import ModelKind

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_INDEX = "model.safetensors.index.json"
# The safetensors format puts its header's length into the first eight bytes, and forbids headers longer than this.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def read_config(folder: Path) -> Any:
    """The Transformers config of a model folder that holds a language model in ordinary numbers.

    Code that a folder brings along is never run.

    Raises:
        ModelError: ``model.no_config``, ``model.broken_config``, ``model.unknown_architecture``,
            ``model.not_language``, ``model.quantized``.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            "the folder holds no model: config.json is missing",
            code="model.no_config",
            place=str(folder),
            hint="give the folder that holds config.json, the safetensors and the tokenizer",
        )
    try:
        values = json.loads(path.read_text("utf-8"))
        model_type = values.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            "config.json cannot be read",
            code="model.broken_config",
            place=str(path),
            value=str(error)[:200],
            hint="fetch or copy the model again",
        ) from error
    try:
        with quiet_libraries():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # Each config class checks its own values, with errors of many kinds.
        raise _unreadable(path, model_type, error) from error
    _check_kind(config, path)
    if values.get("quantization_config"):
        method = values["quantization_config"].get("quant_method", "unknown method")
        raise ModelError(
            "the model's weights are quantized already",
            code="model.quantized",
            place=str(path),
            value=str(method),
            hint="use the model in its original precision; quantized copies cannot be trained or merged exactly",
        )
    return config


def check_weights(folder: Path) -> None:
    """See that the weights are there, whole, and safe to read; looks at headers and sizes only.

    Raises:
        ModelError: ``model.pickled_weights``, ``model.no_weights``, ``model.missing_weights``,
            ``model.broken_weights``.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_safetensors(folder)
    problems = [problem for file in files if (problem := _broken(file)) is not None]
    index = folder / _INDEX
    if index.is_file():
        wanted = sorted(set(json.loads(index.read_text("utf-8")).get("weight_map", {}).values()))
        problems += [
            Problem("model.missing_weights", "a file of weights is missing", str(folder / name))
            for name in wanted
            if not (folder / name).is_file()
        ]
    if problems:
        raise ModelError(
            "the model's weights are not whole",
            place=str(folder),
            hint="fetch or copy the model again",
            problems=problems,
        )


def model_kind(config: Any) -> ModelKind | None:
    """What a model does with text, by its config; None where it is no language model that can be trained here.

    Families that can be both (BERT, which has a decoder form too) are told apart by the class that the folder names.
    """
    from transformers.models.auto import modeling_auto as known

    if getattr(config, "vision_config", None) is not None or getattr(config, "audio_config", None) is not None:
        return None
    family, named = config.model_type, set(config.architectures or ())
    if getattr(config, "is_encoder_decoder", False):
        return "encoder_decoder" if family in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    causal = _names(known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family))
    masked = _names(known.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(family))
    heads = {
        name
        for table in (
            known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            known.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
            known.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
        )
        for name in _names(table.get(family))
    }
    if not masked and causal:
        plain = _names(known.MODEL_MAPPING_NAMES.get(family))
        return "causal" if not named or named & (causal | heads | plain) else None
    if masked and heads:
        return "causal" if named & causal and getattr(config, "is_decoder", False) else "encoder"
    return None


def has_head(config: Any) -> bool:
    """Whether the folder's own class puts labels on texts, tokens or answers instead of writing."""
    endings = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    return any(name.endswith(endings) for name in config.architectures or ())


def _names(value: Any) -> set[str]:
    return set() if value is None else set(value) if isinstance(value, (tuple, list)) else {value}


def _check_kind(config: Any, path: Path) -> None:
    if model_kind(config) is None:
        raise ModelError(
            "not a language model that can be trained here",
            code="model.not_language",
            place=str(path),
            value=f"{', '.join(config.architectures or ()) or config.model_type}",
            hint="choose a model that takes text alone; `tunesmith models list` shows some",
        )


def _unreadable(path: Path, model_type: Any, error: Exception) -> ModelError:
    from transformers import CONFIG_MAPPING

    if model_type in CONFIG_MAPPING:
        return ModelError(
            "config.json has values that its architecture refuses",
            code="model.broken_config",
            place=str(path),
            value=f"{type(error).__name__}: {str(error).strip()[:200]}",
            hint="fetch or copy the model again",
        )
    return ModelError(
        "the architecture is not known",
        code="model.unknown_architecture",
        place=str(path),
        value=str(model_type),
        hint="only architectures that Transformers itself implements are loaded; code in a model folder is never run",
    )


def _no_safetensors(folder: Path) -> ModelError:
    pickles = sorted(
        file.name for pattern in _PICKLES for file in folder.glob(pattern) if "training_args" not in file.name
    )
    if pickles:
        return ModelError(
            "the weights are pickled, and pickles can run code",
            code="model.pickled_weights",
            place=str(folder),
            value=", ".join(pickles[:3]),
            hint="where you trust the file, convert it once: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    return ModelError(
        "the folder holds no weights",
        code="model.no_weights",
        place=str(folder),
        hint="safetensors are read; copy the files *.safetensors beside config.json",
    )


def _broken(file: Path) -> Problem | None:
    """Compare what the header promises with the size of the file."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (header_bytes,) = struct.unpack("<Q", opened.read(_LENGTH_BYTES))
            if header_bytes > min(_MAX_HEADER_BYTES, size):
                raise ValueError(f"a header of {header_bytes} bytes in a file of {size}")
            header = json.loads(opened.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, struct.error, KeyError, TypeError, AttributeError, IndexError) as error:
        return Problem("model.broken_weights", "the file is not in safetensors format", str(file), str(error)[:120])
    expected = _LENGTH_BYTES + header_bytes + max(ends, default=0)
    if size != expected:
        return Problem(
            "model.broken_weights", "the file is cut off or has grown", str(file), f"{size} of {expected} bytes"
        )
    return None
