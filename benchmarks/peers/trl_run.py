"""TRL's side of the training benchmark, run in an environment of its own: `python trl_run.py job.json`.

The job names the model folder, a file of token rows in the order of the steps, and the settings of the trainer. The
last line of the output is one JSON object: each step's seconds, rows, real tokens and loss, and the peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class Watch(transformers.TrainerCallback):
    """Notes when each step ends, and stops the training when its time is up."""

    def __init__(self, seconds: float, least_steps: int) -> None:
        self.seconds, self.least_steps = seconds, least_steps
        self.started = self.last = 0.0
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = self.last = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, control: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now
        if now - self.started > self.seconds and state.global_step >= self.least_steps:
            control.should_training_stop = True

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


class Counting:
    """A collator that notes how many real tokens each batch has."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.tokens: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        batch = self.collator(features)
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
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    adapter = LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    is_pair = len(items[0]) == 2
    config = (DPOConfig if is_pair else SFTConfig)(
        output_dir=job["scratch"],
        per_device_train_batch_size=job["rows_per_step"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=job["steps"],
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        max_length=None,
        seed=0,
        **({"precompute_ref_log_probs": False, "beta": 0.1} if is_pair else {}),
        **job["settings"],
    )
    watch = Watch(job["seconds"], job["least_steps"])
    trainer = (PreparedDPOTrainer if is_pair else SFTTrainer)(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([_row(sides) for sides in items]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[watch],
    )
    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    trainer.train()
    count = len(watch.times)
    steps = zip(watch.times, counting.tokens[:count], watch.losses[:count], strict=True)
    print(
        json.dumps(
            {
                "steps": [
                    {"seconds": seconds, "rows": job["rows_per_step"], "tokens": tokens, "loss": loss}
                    for seconds, tokens, loss in steps
                ],
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "precision": "bfloat16" if config.bf16 else job["dtype"],
            }
        )
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
