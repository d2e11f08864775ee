"""What all adapters of the PEFT library share: the kind of model, heads and new tokens beside them, saving, merging.

config = LoraConfig(**adapter_options(model, new_token_ids), target_modules=...)
wrapped = wrap(model, config, seed)
save_adapter(wrapped, folder, base_model)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.quantized import dequantize, is_quantized
from tunesmith.techniques.base import State, without_dropout
from tunesmith.techniques.saving import telling_save_errors

ADAPTER = "default"
# PEFT's name for what a model class does; any other class continues texts.
_TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}
_WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def task_type(model: nn.Module) -> str:
    """PEFT's ``task_type`` for a model, told from its class."""
    name = type(model).__name__
    return next((kind for ending, kind in _TASK_TYPES.items() if name.endswith(ending)), "CAUSAL_LM")


def head_modules(model: nn.Module) -> list[str]:
    """The fresh head of a classifier, which has to train in any case: all that stands beside the body of the model."""
    if task_type(model) not in _WITH_HEAD:
        return []
    body = getattr(model, "base_model_prefix", "")
    return [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]


def adapter_options(model: nn.Module, new_token_ids: Sequence[int] = ()) -> dict[str, Any]:
    """What every PEFT config gets from the model: its task type, its fresh head, and the rows of new tokens.

    New rows train in the embeddings, and in the output matrix as well where it is one of its own.
    """
    options: dict[str, Any] = {"task_type": task_type(model), "modules_to_save": head_modules(model) or None}
    if new_token_ids:
        # PEFT ties the rows of a head that shares the embeddings' matrix.
        wanted = [cast(PreTrainedModel, model).get_input_embeddings()]
        head = cast(Any, model).get_output_embeddings()
        if head is not None and head.weight is not wanted[0].weight:
            wanted.append(head)
        names = {name: module for name, module in model.named_modules() if any(module is one for one in wanted)}
        options["trainable_token_indices"] = {name: list(new_token_ids) for name in names}
    return options


def wrap(model: nn.Module, config: PeftConfig, seed: int) -> PeftModel:
    """The model with a PEFT adapter on it; new weights are drawn from ``seed``, and train in fp32 at least.

    Dropout of the model is turned off; the global random state stays as it was.

    Raises:
        ModelError: PEFT refuses the model or a value of the config.
    """
    without_dropout(model)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks for properties by names that Transformers has just deprecated, and tells of kernels that only a GPU
        # has, and of kinds of norms that it does not know by name.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(cast(PreTrainedModel, model), config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ModelError(
                "the PEFT library cannot put this adapter on the model",
                code="model.adapter",
                place="technique",
                value=str(error).strip()[:300],
            ) from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return cast(PeftModel, wrapped)


def adapter_state(model: nn.Module) -> State:
    """The adapter's weights by the names that PEFT gives them on disk; what heads and new tokens learned included."""
    return cast(
        State, get_peft_model_state_dict(cast(PeftModel, model), adapter_name=ADAPTER, save_embedding_layers=False)
    )


def adapter_config(model: nn.Module) -> Any:
    """A copy of the adapter's config as it is to be saved, for inference."""
    config = copy.copy(cast(PeftModel, model).peft_config[ADAPTER])
    config.inference_mode = True
    return config


def save_adapter(state: State, config: Any, folder: Path, base_model: str | None) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``, as PEFT reads them.

    PEFT's own ``save_pretrained`` may ask the hub about the base model and writes a model card of placeholders, so its
    parts are called one by one.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    if base_model is not None:
        config.base_model_name_or_path = base_model
    with telling_save_errors(folder):
        save_file(
            _apart(state),
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config.save_pretrained(str(folder))


def _on_plain_weights(model: PeftModel) -> PeftModel:
    """The same adapter on the dequantized model; the given one is used up."""
    state, config = adapter_state(model), copy.copy(model.peft_config[ADAPTER])
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    plain = dequantize(cast(Any, model).unload())
    rewrapped = wrap(plain, config, seed=0)
    set_peft_model_state_dict(rewrapped, state, adapter_name=ADAPTER)
    return rewrapped.eval()


def _apart(state: State) -> State:
    """Tensors that share no memory, as the file format wants them; some methods use one matrix in several layers."""
    seen: set[int] = set()
    apart: State = {}
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return apart


def merge_adapter(model: nn.Module) -> nn.Module:
    """A copy with the adapter worked into the weights; needs the memory of a second model.

    Quantized weights become plain ones first, with the numbers that they stand for: the merged model is whole, and what
    was trained is not rounded a second time.

    Raises:
        ModelError: A merged weight would not be finite, or the method has nothing that could be merged.
    """
    merged = copy.deepcopy(cast(PeftModel, model))
    if is_quantized(merged):
        merged = _on_plain_weights(merged)
    try:
        return cast(nn.Module, merged.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise ModelError("the adapter cannot be merged", code="model.merge", value=str(error)) from error
