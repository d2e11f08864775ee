"""LLaMA-Factory's side of the training benchmark, in an environment of its own: `python llamafactory_run.py job.json`.

Reads the same job as `trl_run.py` and prints the same line. Rows go through its own packing; only its tokenization is
replaced, so that every side gets the same tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers.modeling_utils  # noqa: F401

# It is imported for sound alone, and its releases want another torch than the one that all sides here share. Libraries
# that only look whether it is there must have looked by now.
sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))

from llamafactory.data import collator  # noqa: E402
from llamafactory.data.processor.supervised import SupervisedDatasetProcessor  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from watch import Watch, tell  # noqa: E402


def main() -> None:
    """Do the job of the file that is named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    items = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    scratch = Path(job["scratch"])
    _write_dataset(scratch, len(items))
    _use_tokens([row for (row,) in items])
    rows, tokens = _count_batches()
    watch = Watch(job["seconds"], job["least_steps"])
    run_exp(args=_arguments(job, scratch), callbacks=[watch])
    tell(watch, rows, tokens, job["dtype"], job["batches_per_step"])


def _write_dataset(folder: Path, count: int) -> None:
    """Rows that name the token rows by number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": str(number), "input": "", "output": str(number)} for number in range(count)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")


def _use_tokens(rows: list[dict[str, Any]]) -> None:
    def encode(_self: Any, prompt: Any, **_: Any) -> tuple[list[int], list[int]]:
        row = rows[int(prompt[0]["content"])]
        marked = zip(row["token_ids"], row["trained"], strict=True)
        return list(row["token_ids"]), [token if trained else -100 for token, trained in marked]

    SupervisedDatasetProcessor._encode_data_example = encode


def _count_batches() -> tuple[list[int], list[int]]:
    """Lists that grow with every batch: its rows and its real tokens, told before the mask becomes a large one."""
    rows: list[int] = []
    tokens: list[int] = []
    original = collator.MultiModalDataCollatorForSeq2Seq.__call__

    def counting(self: Any, features: list[dict[str, Any]]) -> Any:
        masks = [feature["attention_mask"] for feature in features]
        # A packed row's mask numbers the rows in it from 1.
        rows.append(sum(max(mask) for mask in masks))
        tokens.append(sum(sum(value > 0 for value in mask) for mask in masks))
        return original(self, features)

    collator.MultiModalDataCollatorForSeq2Seq.__call__ = counting
    return rows, tokens


def _arguments(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": job["rank"],
        "lora_alpha": job["alpha"],
        "lora_dropout": 0.0,
        "lora_target": "all",
        "model_name_or_path": job["model"],
        "template": "empty",
        "dataset": "rows",
        "dataset_dir": str(scratch),
        "output_dir": str(scratch / "out"),
        "overwrite_output_dir": True,
        "overwrite_cache": True,
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_steps": job["steps"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "seed": 0,
        **job["settings"],
    }


if __name__ == "__main__":
    main()
