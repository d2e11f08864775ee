"""What is written for KAITO, handed to the classes that KAITO hands it to, and what their trainer prints, read back.

KAITO's own container cannot run here. Its trainer is TRL's SFTTrainer on a model of PEFT, with the data collator of
Transformers; that is what runs here, on a tiny model that is built like Phi-3.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kaito_cases import CASES, ROWS, objects_of, recipe_of
from tiny_models import tiny_causal_model, tiny_model_folder

from tunesmith.executors.kaito.progress import read_steps

trl = pytest.importorskip("trl", reason="the parity of KAITO's configuration needs TRL")
pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own

# The list that KAITO sets for Phi-3 where none is named.
KAITO_MODULES = ("k_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj")
# Fields of KAITO's own classes, as its source has them.
MODEL_FIELDS = {"torch_dtype", "local_files_only", "device_map", "chat_template"}
DATASET_FIELDS = {
    "dataset_path",
    "dataset_extension",
    "shuffle_dataset",
    "shuffle_seed",
    "context_column",
    "response_column",
    "messages_column",
    "train_test_split",
}
# What KAITO's fine_tuning.py does between reading its configuration and saving the adapter.
TRAIN = """
import json, sys
from pathlib import Path
import datasets, peft, transformers, trl
folder, config = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
model = peft.get_peft_model(model, peft.LoraConfig(**config["LoraConfig"]))
arguments = {**config["TrainingArguments"], "output_dir": str(folder / "results"), "use_cpu": True, "bf16": False}
place, cache = str(folder / "rows.jsonl"), str(folder / "cache")
rows = datasets.load_dataset("json", data_files=place, split="train", cache_dir=cache)
trainer = trl.SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=rows,
    args=trl.SFTConfig(**arguments),
    data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, **config["DataCollator"]),
)
trainer.train()
trainer.save_model(arguments["output_dir"])
Path(folder / "history.json").write_text(json.dumps(trainer.state.log_history))
"""


def sections_of(recipe: Any) -> dict[str, Any]:
    sections: dict[str, Any] = yaml.safe_load(objects_of(recipe)[0]["data"]["training_config.yaml"])["training_config"]
    return sections


def as_arguments(section: dict[str, Any]) -> list[str]:
    """A section as KAITO's parser writes it: arguments of a command."""
    found = []
    for key, value in section.items():
        found.append(f"--{key}")
        found.extend(map(str, value) if isinstance(value, list) else [str(value)])
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_name_is_one_of_the_class_that_gets_it(name: str) -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, DataCollatorForLanguageModeling, HfArgumentParser

    sections = sections_of(CASES[name])
    given = {**sections["TrainingArguments"], "use_cpu": True}
    (parsed,) = HfArgumentParser((trl.SFTConfig,)).parse_args_into_dataclasses(as_arguments(given))
    for key, value in sections["TrainingArguments"].items():
        found = getattr(parsed, key)
        assert getattr(found, "value", found) == value or [value] == found or (value == "none" and not found), key
    assert set(sections["LoraConfig"]) <= {field.name for field in dataclasses.fields(LoraConfig)}
    assert LoraConfig(**sections["LoraConfig"]).target_modules == set(sections["LoraConfig"]["target_modules"])
    collator = {field.name for field in dataclasses.fields(DataCollatorForLanguageModeling)}
    assert set(sections["DataCollator"]) <= collator
    assert set(sections["ModelConfig"]) <= MODEL_FIELDS
    assert set(sections["DatasetConfig"]) <= DATASET_FIELDS
    quantization = sections.get("QuantizationConfig", {})
    made = BitsAndBytesConfig(**quantization)
    assert made.is_quantizable() == bool(quantization)
    for key, value in quantization.items():
        assert str(getattr(made, key)).removeprefix("torch.") == str(value), key


def test_all_of_phi_3_gets_adapters_and_would_not_by_the_list_of_kaito(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def adapted(modules: list[str]) -> set[str]:
        model = get_peft_model(tiny_causal_model("phi3", tmp_path / "model"), LoraConfig(target_modules=modules))
        names = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
        return {name.split(".")[-3] for name in names}

    ours = sections_of(recipe_of())["LoraConfig"]["target_modules"]
    assert adapted(ours) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    # PEFT says nothing of the others: this is why modules are named.
    assert adapted(list(KAITO_MODULES)) == {"o_proj", "down_proj"}


@pytest.mark.slow
def test_what_the_trainer_prints_is_read_as_it_happened(tmp_path: Path) -> None:
    tiny_model_folder("phi3", tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = recipe_of({"train": {"epochs": 2}}, rows_per_step=4)
    (tmp_path / "config.json").write_text(json.dumps(sections_of(recipe)))
    command = [sys.executable, "-c", TRAIN, str(tmp_path), str(tmp_path / "config.json")]
    # One stream, as a container's log is.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False)
    log = done.stdout.decode()
    assert done.returncode == 0, log
    history = [one for one in json.loads((tmp_path / "history.json").read_text()) if "loss" in one]
    steps = list(read_steps(log))
    assert [step.number for step in steps] == [one["step"] for one in history] == list(range(1, 11))
    assert {step.total for step in steps} == {10}
    for step, one in zip(steps, history, strict=True):
        for key in ("loss", "grad_norm", "learning_rate", "epoch"):
            # Four digits are printed.
            assert step.values[key] == pytest.approx(one[key], rel=1e-3), (key, log)
    config = json.loads((tmp_path / "results" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
