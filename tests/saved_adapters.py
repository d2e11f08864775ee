"""Random adapters of the PEFT library, saved beside tiny bases, for tests that put several on one model.

folder = save_adapter(base, root / "one", r=8, use_dora=True)
model = with_adapter(base, folder)                     # what PEFT itself makes of it, in double precision
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import transformers


def save_adapter(base: Path, folder: Path, *, seed: int = 0, spread: float = 0.5, **settings: Any) -> Path:
    """Save a LoRA adapter whose every weight is drawn at random; ``settings`` are those of PEFT's config."""
    wanted = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "init_lora_weights": False, **settings}
    model = peft.get_peft_model(load_double(base), peft.LoraConfig(**wanted))
    draw(model, seed, spread)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@torch.no_grad()
def draw(model: torch.nn.Module, seed: int, spread: float) -> None:
    """Move what an adapter learns to somewhere at random; magnitudes stay near what they were."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if "magnitude" in name:
                parameter.mul_((1 + 0.2 * noise).to(parameter.dtype))
            else:
                parameter.copy_((spread * noise).to(parameter.dtype))


def load_double(base: Path) -> Any:
    """A base in double precision, so that two ways to compute the same differ by next to nothing."""
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def with_adapter(base: Path, folder: Path | None) -> Any:
    """A base of its own with an adapter on it, as PEFT loads it."""
    model = load_double(base)
    if folder is None:
        return model.eval()
    return peft.PeftModel.from_pretrained(model, folder).double().eval()
