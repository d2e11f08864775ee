"""The only loader of model folders: weights by a plan, the tokenizer, and the facts that need no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.catalog.heads import OUTPUT_LAYERS, Head, read_head
from tunesmith.catalog.template import has_chat_template
from tunesmith.errors import ModelError, ResourceError
from tunesmith.models.build import auto_class, build_empty, set_labels
from tunesmith.models.check import check_weights, has_head, model_kind, read_config
from tunesmith.models.quantized import Quantization, keep_numbers, load_options
from tunesmith.models.quiet import quiet_libraries
from tunesmith.recipe.facts import ModelFacts

_PACKED = "tunesmith_packed"
# Tokenizers that were saved without a limit carry a huge number instead.
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class LoadPlan:
    """How to load a model: from where, in which type, onto which device ("cpu", "cuda"), with which attention.

    The objective contributes ``head``, the technique ``quantization``.
    """

    folder: Path
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    attention: str = _PACKED
    head: Head | None = None
    quantization: Quantization | None = None


def load_model(plan: LoadPlan) -> Any:
    """Load a model in eval mode, every parameter trainable; never from pickles, the network or code.

    With a head, tensors of the head may be missing in the folder, and those of another label set are drawn anew; of
    the model below it nothing may be missing.

    Raises:
        ModelError: What :func:`tunesmith.models.check.read_config` and ``check_weights`` refuse;
            ``model.not_causal``: no head is asked for, and the model writes no texts;
            ``model.missing_weights``: tensors are missing; ``model.cannot_load``: anything else that fails.
        ResourceError: ``resource.memory``: the weights do not fit.
    """
    config = read_config(plan.folder)
    check_weights(plan.folder)
    if plan.attention == _PACKED:
        # Registers the attention with Transformers, which must happen before the model is built.
        import tunesmith.models.attention  # noqa: F401
    if plan.head is None and (has_head(config) or model_kind(config) == "encoder"):
        raise ModelError(
            "the model does not write texts",
            code="model.not_causal",
            place=str(plan.folder),
            value=", ".join(config.architectures or ()) or config.model_type,
            hint="load it with a head, or choose a model that writes; `tunesmith models list` shows some",
        )
    auto = auto_class(config, plan.head)
    other_labels = plan.head is not None and _has_other_labels(plan.folder, plan.head)
    if plan.head is not None:
        set_labels(config, plan.head)
    with quiet_libraries():
        quantized = load_options(plan.quantization, plan.dtype, plan.device, with_head=plan.head is not None)
    try:
        with quiet_libraries(), _drawn_by(plan.head):
            model, notes = auto.from_pretrained(
                plan.folder,
                config=config,
                dtype=plan.dtype,
                attn_implementation=plan.attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **_head_options(config, plan.head),
                **quantized,
            )
            _check_complete(notes, plan.folder, model if plan.head is not None else None)
            if other_labels:
                _draw_output(model)
            keep_numbers(model)
            # Quantized layers were put on the device while they were loaded, and may not be moved.
            model = model if quantized else model.to(plan.device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            "not enough memory for the model's weights",
            code="resource.memory",
            place=str(plan.folder),
            value=plan.device,
            hint="close what is not needed, or choose a smaller model",
        ) from error
    except ModelError:
        raise
    except Exception as error:
        # Wrong shapes, values that a model class refuses, files that vanish: each library has errors of its own.
        raise ModelError(
            "the model cannot be loaded",
            code="model.cannot_load",
            place=str(plan.folder),
            value=f"{type(error).__name__}: {str(error).strip()[:300]}",
            hint="fetch or copy the model again; config.json and the weights must belong together",
        ) from error
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer, with a pad token in any case: its own, else the unknown token, else the end token.

    Which token pads changes nothing that is trained; it must only exist. A missing chat template is no error here.

    Raises:
        ModelError: ``model.no_tokenizer``.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # A missing file is an OSError in one tokenizer class and a TypeError or KeyError in the next.
        raise ModelError(
            "the tokenizer cannot be loaded",
            code="model.no_tokenizer",
            place=str(folder),
            value=f"{type(error).__name__}: {str(error).strip()[:200]}",
            hint="the folder needs tokenizer.json (or the files of its tokenizer) beside config.json",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def model_facts(folder: Path, name: str | None = None) -> ModelFacts:
    """What a model folder's config says; no weights are read.

    Args:
        folder: A model folder.
        name: What the user calls the model; the folder's name if not given.

    Raises:
        ModelError: As :func:`tunesmith.models.check.read_config`.
    """
    config = read_config(folder)
    kind = model_kind(config)
    assert kind is not None
    return ModelFacts(
        name=name or folder.name,
        parameters=_count_parameters(config, folder),
        context_length=_context_length(config, folder),
        has_chat_template=bool(has_chat_template(folder)),
        model_type=config.model_type,
        kind=kind,
        hidden_size=config.hidden_size,
        layers=_layers(config),
        vocabulary_size=config.vocab_size,
    )


def _layers(config: Any) -> int:
    layers = int(config.num_hidden_layers)
    if not getattr(config, "is_encoder_decoder", False):
        return layers
    return layers + int(getattr(config, "num_decoder_layers", getattr(config, "decoder_layers", 0)) or 0)


def _has_other_labels(folder: Path, head: Head) -> bool:
    """Whether the folder's own head chooses from as many labels that mean something else."""
    saved = read_head(folder)
    if saved is None or saved.kind != head.kind or head.kind == "question_answering":
        return False
    return saved.labels != head.labels


def _draw_output(model: Any) -> None:
    """Draw the weights of the head's last layer anew, as the model class begins with them."""
    for name in OUTPUT_LAYERS:
        layer = getattr(model, name, None)
        if isinstance(layer, torch.nn.Linear):
            deviation = getattr(model.config, "initializer_range", 0.02)
            torch.nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


def _head_options(config: Any, head: Head | None) -> dict[str, Any]:
    if head is None:
        return {}
    options: dict[str, Any] = {"ignore_mismatched_sizes": True}
    if head.kind == "question_answering" and model_kind(config) == "causal":
        # Some families keep the model under another name in this class alone.
        options["key_mapping"] = {"^model.": f"{_base_prefix(config)}."}
    return options


def _base_prefix(config: Any) -> str:
    from transformers import AutoModelForQuestionAnswering

    auto: Any = AutoModelForQuestionAnswering
    return str(auto._model_mapping[type(config)].base_model_prefix)


@contextmanager
def _drawn_by(head: Head | None) -> Iterator[None]:
    """New weights of the block depend on the head's seed alone, and torch's random state stays as it was."""
    if head is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head.seed)
        yield


def _check_complete(notes: dict[str, Any], folder: Path, headed: Any | None) -> None:
    wrong = set(notes.get("missing_keys", ())) | {entry[0] for entry in notes.get("mismatched_keys", ())}
    if headed is not None:
        base = f"{headed.base_model_prefix}."
        # A pooler belongs to the head: models that were trained without one have none.
        wrong = {name for name in wrong if name.startswith(base) and ".pooler." not in name}
    missing = sorted(wrong)
    if missing:
        raise ModelError(
            "tensors are missing from the model's weights",
            code="model.missing_weights",
            place=str(folder),
            value=", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            hint="fetch or copy the model again; config.json and the weights must belong together",
        )


def _count_parameters(config: Any, folder: Path) -> int:
    """Build the model without memory and count; tied weights count once. A head's own few are not counted."""
    model = build_empty(config, None, str(folder / "config.json"))
    return sum(parameter.numel() for parameter in model.parameters())


def _context_length(config: Any, folder: Path) -> int | None:
    length = getattr(config, "max_position_embeddings", None) or _tokenizer_settings(folder).get("model_max_length")
    return None if not length or length > _NO_LIMIT else int(length)


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return settings
