"""The methods of the PEFT library besides LoRA: what each gets where the recipe is silent, and which are not offered.

One row for each name of the library. A version of the library with more names fails a test until each has a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Which modules a method changes unless the recipe names others.
Targets = Literal["linear", "keys_values_down", "norms", "none"]


@dataclass(frozen=True)
class Method:
    """One method of the library.

    ``settings`` are fields of the library's config. ``merges`` says whether the result can be worked into the weights.
    """

    targets: Targets = "linear"
    settings: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = True


METHODS: Mapping[str, Method] = {
    "adalora": Method(settings={"init_r": 12, "target_r": 8, "lora_alpha": 32}),
    "adamss": Method(),
    "boft": Method(settings={"boft_block_size": 4, "boft_n_butterfly_factor": 1}),
    "c3a": Method(settings={"block_size": 64}),
    "deft": Method(),
    "delora": Method(),
    "fourierft": Method(settings={"n_frequency": 1000, "scaling": 150.0}),
    "frod": Method(settings={"progressbar": False}),
    "glora": Method(),
    "gralora": Method(settings={"r": 32}),
    "hira": Method(settings={"r": 32}),
    "hra": Method(settings={"r": 8}),
    "ia3": Method(targets="keys_values_down"),
    "lily": Method(merges=False),
    "ln_tuning": Method(targets="norms"),
    "loha": Method(settings={"r": 8, "alpha": 16}),
    "lokr": Method(settings={"r": 8, "alpha": 16}),
    "miss": Method(settings={"r": 32}),
    "oft": Method(settings={"r": 0, "oft_block_size": 32}),
    "osf": Method(),
    "p_tuning": Method(targets="none", settings={"num_virtual_tokens": 20, "encoder_hidden_size": 128}, merges=False),
    "peanut": Method(),
    "prefix_tuning": Method(targets="none", settings={"num_virtual_tokens": 20}, merges=False),
    "prompt_tuning": Method(
        targets="none", settings={"num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"}, merges=False
    ),
    "psoft": Method(settings={"r": 32}),
    "pvera": Method(),
    "randlora": Method(settings={"r": 32}),
    "road": Method(settings={"group_size": 64}),
    "shira": Method(settings={"r": 16}),
    "supertuning": Method(),
    "tinylora": Method(),
    "unilora": Method(settings={"theta_d_length": 65536}),
    "vblora": Method(settings={"num_vectors": 256, "vector_length": 64}),
    "vera": Method(settings={"r": 256}),
    "waveft": Method(),
}

NOT_OFFERED: Mapping[str, str] = {
    "adaption_prompt": "it knows the attention of a few old model classes only",
    "beft": "it adds to biases, which language models of today do not have",
    "cartridge": "it compresses one long text into a cache and learns no answers",
    "cpt": "it needs examples inside of its own prompt, each token with a kind, and a loss that knows these kinds",
    "multitask_prompt_tuning": "it needs a task number with every row",
    "poly": "it needs a task number with every row",
    "shadow": "it runs a second model beside the first one, which knows no packs",
    "trainable_tokens": "it trains embeddings of given tokens: that is data.new_tokens with technique: lora",
    "xlora": "it mixes adapters that were trained before, and there is only one model in a recipe",
}
