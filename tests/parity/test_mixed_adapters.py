"""Rows of many adapters in one forward pass, against the PEFT library with one adapter at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from saved_adapters import load_double, save_adapter, with_adapter
from tiny_models import FAMILIES, tiny_causal_model, tiny_config, tiny_tokenizer

from tunesmith.generation import Decoding, generate
from tunesmith.generation.pools import LonePool, SharedPool, make_pool
from tunesmith.models.low_rank_adapters import LowRankAdapter, read_low_rank, why_not_low_rank
from tunesmith.models.mixed_adapters import MixedAdapters
from tunesmith.models.quantized import Quantization, keep_numbers, load_options

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SETTINGS: dict[str, dict[str, Any]] = {
    "rank 2": {"r": 2, "lora_alpha": 3},
    "rank 8": {"r": 8, "lora_alpha": 4},
    "rslora": {"r": 6, "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7},
        "alpha_pattern": {"layers.0.self_attn.o_proj": 1, "up_proj": 16, ".*v_proj": 5},
    },
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True},
    "dora with rslora": {"r": 3, "lora_alpha": 8, "use_dora": True, "use_rslora": True},
    "some layers": {"r": 4, "target_modules": ["v_proj"], "layers_to_transform": [1]},
    "output matrix": {"r": 4, "target_modules": ["lm_head", "down_proj"]},
}


# Windows with soft caps, and two families whose rows are written one after the other.
FAST = ("gemma2", "stablelm", "gpt2")
WRITERS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in (*FAMILIES, "stablelm", "gpt2")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "base"
    # Biases are what DoRA must leave alone.
    tiny_causal_model("llama", folder, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    model = load_double(folder)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.float().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(base: Path) -> dict[str, Path]:
    return {
        name: save_adapter(base, base.parent / name.replace(" ", "-"), seed=at, **settings)
        for at, (name, settings) in enumerate(SETTINGS.items())
    }


def read_all(saved: dict[str, Path], model: Any) -> dict[str, LowRankAdapter]:
    assert {name: why_not_low_rank(folder) for name, folder in saved.items()} == dict.fromkeys(saved)
    return {name: read_low_rank(folder, model, dtype=torch.float64) for name, folder in saved.items()}


def some_tokens(rows: int, length: int = 9) -> torch.Tensor:
    return torch.randint(3, 400, (rows, length), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def mixed_logits(model: Any, adapters: Sequence[LowRankAdapter | None], tokens: torch.Tensor) -> torch.Tensor:
    mixed = MixedAdapters(model)
    with mixed.use(adapters):
        found = model(tokens).logits
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    return found


def test_every_row_is_computed_as_with_its_own_adapter_alone(base: Path, saved: dict[str, Path]) -> None:
    model = load_double(base).eval()
    adapters = read_all(saved, model)
    names = [None, *saved, "rank 2", None, "dora", "rank 8"]
    tokens = some_tokens(len(names))
    found = mixed_logits(model, [None if name is None else adapters[name] for name in names], tokens)
    with torch.inference_mode():
        wanted = torch.cat(
            [
                with_adapter(base, None if name is None else saved[name])(tokens[at : at + 1]).logits
                for at, name in enumerate(names)
            ]
        )
        plain = load_double(base).eval()(tokens).logits
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        # After the block nothing of them is left, and in it every adapter did something.
        torch.testing.assert_close(model(tokens).logits, plain, rtol=0, atol=0)
    changed = (found - plain).abs().amax(dim=(1, 2)) > 0.05
    assert changed.tolist() == [name is not None for name in names]


@pytest.mark.parametrize("name", SETTINGS)
def test_one_adapter_for_all_rows(base: Path, saved: dict[str, Path], name: str) -> None:
    model = load_double(base).eval()
    adapter = read_low_rank(saved[name], model, dtype=torch.float64)
    tokens = some_tokens(3)
    with torch.inference_mode():
        wanted = with_adapter(base, saved[name])(tokens).logits
    torch.testing.assert_close(mixed_logits(model, [adapter] * 3, tokens), wanted, rtol=1e-5, atol=1e-5)


def written(pool: Any, prompts: Sequence[list[int]], adapters: Sequence[LowRankAdapter | None], count: int) -> Any:
    """Greedy tokens of rows that take their steps together."""
    scores = []
    for key, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        beginning = pool.begin(prompt, adapter)
        while (first := beginning.advance()) is None:
            pass
        pool.join(beginning, [key])
        scores.append(first)
    tokens = [[int(one.argmax())] for one in scores]
    for _ in range(count - 1):
        step = pool.step(range(len(prompts)), [row[-1] for row in tokens])
        for row, best in zip(tokens, step.argmax(dim=-1).tolist(), strict=True):
            row.append(best)
    return tokens


@pytest.mark.parametrize("family", WRITERS)
def test_tokens_of_a_mixed_batch_are_those_of_each_adapter_alone(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tokenizer = tiny_tokenizer(base)
    turned = {"fan_in_fan_out": True} if family == "gpt2" else {}
    if family == "gpt2":
        save_gpt2(base)
    else:
        tiny_causal_model(family, base, **({"tie_word_embeddings": False} if family.startswith("gemma") else {}))
    saved = {
        "small": save_adapter(base, tmp_path / "small", seed=1, r=2, **turned),
        "large": save_adapter(base, tmp_path / "large", seed=2, r=8, use_rslora=True, **turned),
        "dora": save_adapter(base, tmp_path / "dora", seed=3, r=4, use_dora=True, **turned),
    }
    model = load_double(base).eval()
    adapters = read_all(saved, model)
    names = [None, "small", "large", "dora", "small", None]
    prompts = [row[: 3 + 4 * at] for at, row in enumerate(some_tokens(len(names), 24).tolist())]
    pool = make_pool(model)
    assert isinstance(pool, SharedPool if family in FAMILIES else LonePool)
    found = written(pool, prompts, [None if name is None else adapters[name] for name in names], 14)
    decoding = Decoding(max_new_tokens=14, stop_token_ids=())
    for name, prompt, tokens in zip(names, prompts, found, strict=True):
        alone = with_adapter(base, None if name is None else saved[name])
        (wanted,) = generate(alone, tokenizer, [prompt], decoding, tokens_per_batch=100)
        assert tokens == list(wanted.token_ids), name
    assert len({tuple(tokens) for tokens in found}) == len(found)


def save_gpt2(folder: Path) -> None:
    """A model whose layers hold their weights the other way round."""
    common = tiny_config("llama")
    config = transformers.GPT2Config(
        vocab_size=common.vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=2, bos_token_id=None
    )
    config.initializer_range = 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_rows_of_several_adapters_on_a_base_in_fewer_bits(kind: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_causal_model("llama", base, hidden_size=64, intermediate_size=128, head_dim=16, tie_word_embeddings=False)
    kinds = {"plain": {}, "dora": {"use_dora": True}}
    saved = {
        name: save_adapter(base, tmp_path / name, seed=at, spread=0.2, **more)
        for at, (name, more) in enumerate(kinds.items())
    }

    def quantized() -> Any:
        options = load_options(Quantization(kind), torch.float32, "cpu")
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **options)
        keep_numbers(model)
        return model.eval()

    model = quantized()
    adapters = {name: read_low_rank(folder, model) for name, folder in saved.items()}
    tokens = some_tokens(3)
    found = mixed_logits(model, [adapters["plain"], None, adapters["dora"]], tokens)
    with torch.inference_mode():
        wanted = [
            (quantized() if name is None else peft.PeftModel.from_pretrained(quantized(), saved[name]).eval())(
                tokens
            ).logits[at : at + 1]
            for at, name in enumerate(("plain", None, "dora"))
        ]
    # What eight-bit products keep whole depends on all rows of a batch, so they round differently in another one.
    off = (found - torch.cat(wanted)).flatten(1).norm(dim=1) / torch.cat(wanted).flatten(1).norm(dim=1)
    assert off.max() < (1e-5 if kind == "nf4" else 0.03), off
