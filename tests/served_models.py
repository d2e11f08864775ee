"""A tiny base and two adapters for tests that serve them."""

from __future__ import annotations

from pathlib import Path

import peft
import torch
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.wire.serving import ServedModel

NAMES = ("base", "tuned", "ft:tiny:second.v2")


def make_served(root: Path, *, context: int = 200_000, ranks: tuple[int, int] = (4, 4)) -> list[ServedModel]:
    """A base that never ends a turn, with a context that no test can fill, and two adapters on it."""
    tiny_tokenizer(root / "base")
    model = tiny_causal_model("llama", root / "base", max_position_embeddings=context, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] = 0.0
    model.save_pretrained(root / "base")
    torch.manual_seed(1)
    tuned = None
    for name, rank in zip(("one", "two"), ranks, strict=True):
        config = peft.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        if tuned is None:
            tuned = peft.get_peft_model(model, config, adapter_name=name)
        else:
            tuned.add_adapter(name, config)
    tuned.save_pretrained(root)
    base = root / "base"
    return [
        ServedModel(NAMES[0], base),
        ServedModel(NAMES[1], base, root / "one"),
        ServedModel(NAMES[2], base, root / "two"),
    ]
