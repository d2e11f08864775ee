"""The training configuration that KAITO reads from a ConfigMap, made from a recipe.

It has six sections and no others. Each becomes arguments of a command there, so that a value is a number, a word, a
flag or a list of words, never a map. The names within are those of the classes that KAITO hands them to: of
Transformers, bitsandbytes, PEFT and TRL, and for the data KAITO's own.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from tunesmith.executors.kaito.limits import OPTIMIZERS
from tunesmith.executors.kaito.presets import Preset, target_modules
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.packing import USUAL_EPOCHS
from tunesmith.recipe.schema import Recipe, TrainSpec
from tunesmith.recipe.techniques import Lora, Qlora

CONFIG_KEY = "training_config.yaml"
OUTPUT_FOLDER = "/mnt/results"
# Usual for low-rank adapters of models of four billion parameters and more.
USUAL_RATE = 2e-4
MESSAGES = "messages"


def training_config(recipe: Recipe, spec: Kaito, preset: Preset, data_path: str | None) -> dict[str, Any]:
    """The configuration as plain data.

    Args:
        recipe: One that :func:`tunesmith.executors.kaito.limits.require_possible` lets through.
        spec: The recipe's executor.
        preset: The model.
        data_path: The file of rows below ``/mnt``; None: the only one that is there.

    Raises:
        RecipeError: ``kaito.targets``: a module that the model does not have.
    """
    technique = recipe.technique
    assert isinstance(technique, Lora | Qlora)
    precision = "float32" if recipe.train.precision == "float32" else "bfloat16"
    model: dict[str, Any] = {"torch_dtype": precision, "local_files_only": True, "device_map": "auto"}
    if spec.chat_template is not None:
        model["chat_template"] = spec.chat_template
    sections: dict[str, Any] = {"ModelConfig": model}
    if isinstance(technique, Qlora):
        sections["QuantizationConfig"] = _quantization(technique, precision)
    sections["LoraConfig"] = {
        "r": technique.rank,
        "lora_alpha": int(technique.alpha),
        "lora_dropout": technique.dropout,
        "use_rslora": technique.rank_stabilized,
        "target_modules": target_modules(preset, technique),
    }
    sections["TrainingArguments"] = _arguments(recipe.train, spec, preset)
    # Its default of true is for models that fill gaps.
    sections["DataCollator"] = {"mlm": False}
    sections["DatasetConfig"] = _dataset(spec, data_path)
    return {"training_config": sections}


def config_text(config: dict[str, Any]) -> str:
    """The configuration as it stands in the ConfigMap."""
    text: str = yaml.safe_dump(config, sort_keys=False, width=120)
    return text


def _quantization(technique: Qlora, precision: str) -> dict[str, Any]:
    if technique.quantization == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": precision,
        "bnb_4bit_use_double_quant": technique.double_quantization,
    }


def _arguments(train: TrainSpec, spec: Kaito, preset: Preset) -> dict[str, Any]:
    rows_at_once = min(spec.rows_per_micro_batch, math.ceil(spec.rows_per_step / train.devices))
    max_length = preset.architecture.context_length if train.max_length == "auto" else train.max_length
    schedule = "constant_with_warmup" if train.schedule == "constant" and train.warmup else train.schedule
    arguments: dict[str, Any] = {
        "output_dir": OUTPUT_FOLDER,
        "num_train_epochs": USUAL_EPOCHS if train.epochs == "auto" else train.epochs,
        "learning_rate": USUAL_RATE if train.learning_rate == "auto" else train.learning_rate,
        "optim": OPTIMIZERS[train.optimizer],
        "lr_scheduler_type": schedule,
        # A number below 1 is a share of the steps.
        "warmup_steps": train.warmup,
        "weight_decay": train.weight_decay,
        # 0 is no limit.
        "max_grad_norm": 0.0 if train.clip is None else train.clip,
        "per_device_train_batch_size": rows_at_once,
        "gradient_accumulation_steps": math.ceil(spec.rows_per_step / (rows_at_once * train.devices)),
        # Left out it is 1024, and longer rows would be cut.
        "max_length": max_length,
        "seed": train.seed,
        "data_seed": train.seed,
        "bf16": train.precision != "float32",
        "save_strategy": "no",
        # Every step becomes an event here.
        "logging_steps": 1,
        "report_to": "none",
        "ddp_find_unused_parameters": False,
    }
    if isinstance(train.activation_checkpointing, bool):
        arguments["gradient_checkpointing"] = train.activation_checkpointing
    if train.neftune_alpha is not None:
        arguments["neftune_noise_alpha"] = train.neftune_alpha
    return arguments


def _dataset(spec: Kaito, data_path: str | None) -> dict[str, Any]:
    """Its own shuffle goes by no seed, and the trainer shuffles every epoch by ours."""
    dataset: dict[str, Any] = {"shuffle_dataset": False, "train_test_split": 1, "messages_column": MESSAGES}
    dataset["dataset_extension"] = "json" if spec.input.store is not None else spec.input.format
    if data_path is not None:
        dataset["dataset_path"] = data_path
    return dataset
