"""TRL's side of the training benchmark, run in an environment of its own: `python trl_run.py job.json`.

The job names the model folder, a file of token rows in the order of the steps, and the settings of the trainer. The
last line of the output is one JSON object: each step's seconds, rows, real tokens and loss, and the peak memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from watch import Watch, tell


class Counting:
    """A collator that notes how many rows and real tokens each batch has."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.rows: list[int] = []
        self.tokens: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """The batch of the collator."""
        batch = self.collator(features)
        self.rows.append(len(features))
        self.tokens.append(int((batch["attention_mask"] > 0).sum()))
        return batch


class PreparedDPOTrainer(DPOTrainer):
    """Takes rows that are token ids already, the same that every side gets."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


def main() -> None:
    """Do the job of the file that is named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    items = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    is_pair = len(items[0]) == 2
    config = _config(job, is_pair)
    watch = Watch(job["seconds"], job["least_steps"])
    trainer = (PreparedDPOTrainer if is_pair else SFTTrainer)(
        model=transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])),
        args=config,
        train_dataset=Dataset.from_list([_row(sides) for sides in items]),
        processing_class=transformers.AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(
            r=job["rank"],
            lora_alpha=job["alpha"],
            target_modules="all-linear",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
        callbacks=[watch],
    )
    trainer.data_collator = counting = Counting(trainer.data_collator)
    trainer.train()
    tell(watch, counting.rows, counting.tokens, "bfloat16" if config.bf16 else job["dtype"], job["batches_per_step"])


def _config(job: dict[str, Any], is_pair: bool) -> Any:
    return (DPOConfig if is_pair else SFTConfig)(
        output_dir=job["scratch"],
        per_device_train_batch_size=job["rows_per_step"] // job["batches_per_step"],
        gradient_accumulation_steps=job["batches_per_step"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=job["steps"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        max_length=None,
        seed=0,
        **({"beta": 0.1} if is_pair else {}),
        **job["settings"],
    )


def _row(sides: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of labels, or a pair as prompt, chosen and rejected."""
    first = sides[0]
    if len(sides) == 1:
        labels = [
            token if trained else -100 for token, trained in zip(first["token_ids"], first["trained"], strict=True)
        ]
        return {"input_ids": first["token_ids"], "labels": labels}
    prompt = first["trained"].index(1)
    return {
        "prompt_ids": first["token_ids"][:prompt],
        "chosen_ids": first["token_ids"][prompt:],
        "rejected_ids": sides[1]["token_ids"][prompt:],
    }


if __name__ == "__main__":
    main()
