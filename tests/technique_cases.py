"""The techniques as the contract suites try them: how a recipe spells each, and what holds for its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from tunesmith.models.attention import ATTENTION
from tunesmith.models.load import LoadPlan, load_model
from tunesmith.recipe import techniques as variants

TWO = ("llama", "phi3")
# What PEFT and torch say of methods on loading them and in their forward passes.
QUIET = (
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Setting boft_n_butterfly_factor:UserWarning",
    "ignore:Sparse invariant checks:UserWarning",
    "ignore:Unsupported layer type:UserWarning",
    "ignore:Failed to load the CUDA extension:UserWarning",
)


@dataclass(frozen=True)
class Case:
    """A technique as a recipe spells it, a rate that suits it, and how its result is loaded by the format's owner.

    ``families`` are those of the fast tier; the slow one runs every technique on every family. ``merges`` is False
    where there is nothing to merge. ``is_drawn`` says whether new weights are drawn at random. ``may_stay`` is a part
    of the name of weights that may learn nothing. ``is_single`` marks methods that keep matrices of single precision
    outside of their weights.
    """

    spec: Any
    learning_rate: float
    load: Callable[[Any, Path, Path], Any]
    families: tuple[str, ...] = ("llama",)
    merges: bool = True
    is_drawn: bool = True
    may_stay: str | None = None
    is_single: bool = False


def load_adapter_elsewhere(technique: Any, base: Path, saved: Path) -> Any:
    return peft.PeftModel.from_pretrained(load_base(technique, base), saved)


def load_model_elsewhere(_technique: Any, _base: Path, saved: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(saved, attn_implementation=ATTENTION)


def load_base(technique: Any, base: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(LoadPlan(base, dtype, quantization=technique.quantization))


SUITE = {
    "lora": Case(variants.Lora(rank=4, alpha=8.0), 1e-2, load_adapter_elsewhere, TWO),
    "dora": Case(variants.Dora(rank=4, alpha=8.0), 1e-2, load_adapter_elsewhere, TWO),
    "qlora": Case(variants.Qlora(rank=4, alpha=8.0), 1e-2, load_adapter_elsewhere),
    "qlora-int8": Case(variants.Qlora(rank=4, alpha=8.0, quantization="int8"), 1e-2, load_adapter_elsewhere, ()),
    "qlora-loftq": Case(
        variants.Qlora(rank=4, alpha=8.0, initialization="loftq"), 1e-2, load_adapter_elsewhere, (), is_drawn=False
    ),
    "qdora": Case(variants.Qdora(rank=4, alpha=8.0), 1e-2, load_adapter_elsewhere),
    "freeze": Case(variants.Freeze(layers=1), 3e-3, load_model_elsewhere, TWO, is_drawn=False),
    "full": Case(variants.Full(), 1e-3, load_model_elsewhere, TWO, is_drawn=False),
}


def method_case(
    name: str,
    rate: float,
    *families: str,
    merges: bool = True,
    is_drawn: bool = True,
    may_stay: str | None = None,
    is_single: bool = False,
    **settings: Any,
) -> Case:
    """A method of the library; ``is_drawn`` is False where it begins as nothing, or as its own settings decide."""
    spec = variants.PeftMethod(name=name, settings=settings)
    return Case(spec, rate, load_adapter_elsewhere, families, merges, is_drawn, may_stay, is_single)


SUITE |= {
    # Ranks that it takes away begin and end as zero.
    "adalora": method_case("adalora", 5e-2, "llama", may_stay="lora_E", init_r=6, target_r=3),
    "adamss": method_case("adamss", 3e-2, is_single=True),
    "boft": method_case("boft", 1e-2, boft_block_size=4, is_drawn=False),
    "c3a": method_case("c3a", 1e-1, block_size=8),
    "deft": method_case("deft", 1e-2, is_drawn=False),
    "delora": method_case("delora", 1e-2),
    "fourierft": method_case("fourierft", 1e-1, n_frequency=100),
    "frod": method_case("frod", 1e-2, is_drawn=False),
    # One part scales the base's bias, which is zero in a model that was never trained.
    "glora": method_case("glora", 1e-2, may_stay="glora_D"),
    "gralora": method_case("gralora", 1e-2, r=8),
    "hira": method_case("hira", 1e-2, r=8),
    "hra": method_case("hra", 1e-2, is_drawn=False),
    "ia3": method_case("ia3", 1e-1, "llama", is_drawn=False),
    "lily": method_case("lily", 1e-2, merges=False),
    "ln_tuning": method_case("ln_tuning", 1e-1, "llama", is_drawn=False),
    "loha": method_case("loha", 5e-2),
    "lokr": method_case("lokr", 5e-2),
    "miss": method_case("miss", 1e-2, r=8, is_drawn=False),
    "oft": method_case("oft", 1e-2, "llama", oft_block_size=8, is_drawn=False),
    "osf": method_case("osf", 1e-2, is_drawn=False),
    "p_tuning": method_case("p_tuning", 1e-2, "llama", merges=False, num_virtual_tokens=4),
    "peanut": method_case("peanut", 1e-2),
    "prefix_tuning": method_case("prefix_tuning", 5e-1, "llama", merges=False, num_virtual_tokens=4),
    "prompt_tuning": method_case("prompt_tuning", 1e-1, "llama", merges=False, num_virtual_tokens=4),
    "psoft": method_case("psoft", 1e-2, r=8, is_drawn=False),
    "pvera": method_case("pvera", 1e-1, r=32, is_drawn=False),
    "randlora": method_case("randlora", 1e-2, is_drawn=False),
    "road": method_case("road", 3e-2, group_size=8, is_drawn=False),
    "shira": method_case("shira", 1e-2, r=4, is_drawn=False),
    "supertuning": method_case("supertuning", 1e-1, is_drawn=False),
    "tinylora": method_case("tinylora", 1e-2, is_drawn=False),
    "unilora": method_case("unilora", 1e-1, theta_d_length=256),
    "vblora": method_case("vblora", 1e-1, num_vectors=16, vector_length=8),
    "vera": method_case("vera", 1e-1, "llama", r=32, is_drawn=False),
    "waveft": method_case("waveft", 1e-1, n_frequency=100, is_drawn=False),
}
