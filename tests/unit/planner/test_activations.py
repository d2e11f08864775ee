"""What layers keep for their backward pass: one small layer by hand, and every family against what autograd keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from tiny_models import tiny_config as config_of_family
from tiny_training import counting_rows

from tunesmith.data.packs import lay_out
from tunesmith.data.types import Pack
from tunesmith.engine.mode import training_mode
from tunesmith.models.attention import ATTENTION
from tunesmith.objectives.label_loss import next_token_losses
from tunesmith.planner.activations import LayerHow, layer_bytes, layer_input_bytes
from tunesmith.planner.packs import Packs
from tunesmith.planner.shape import shape_of_config
from tunesmith.planner.trained import adapted_matrices
from tunesmith.recipe.techniques import Dora, Full, Lora, PeftMethod
from tunesmith.techniques.table import make_technique

ROW = 50
ROWS = 4
TECHNIQUES = {
    "lora": Lora(rank=5),
    "full": Full(),
    "dora": Dora(rank=5),
    "dropout": Lora(rank=5, dropout=0.1),
    "attention": Lora(rank=5, targets="attention"),
    "hira": PeftMethod(name="hira", settings={"r": 5}),
}
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def how_of(spec: Any, products: Any = "float32", device: Any = "cpu") -> LayerHow:
    return LayerHow(
        products=products,
        device=device,
        technique=spec.name,
        trains=spec.name == "full",
        own=spec.name == "lora" and not spec.dropout,
        dropout=bool(getattr(spec, "dropout", 0)),
    )


def rows_of(tokens: int, row: float, prefix: int = 0) -> Packs:
    rows = tokens / row
    return Packs(tokens, tokens, row, prefix, rows, 1, tokens, rows)


def test_a_small_layer_by_hand(tiny):
    """Four heads of 8, two for keys: queries 32, keys 16, hidden 32, intermediate 64."""
    adapted = adapted_matrices(tiny, Lora(rank=5))[0]
    per_token, fixed = layer_bytes(tiny, how_of(Lora()), adapted, rows_of(200, 50))
    norms, attention, mlp = 2 * 32 + 2, 2 * 32 + 2 * 16 + 4, 3 * 64
    inputs, ranks = 32 + 32 + 32 + 64, 7 * 5
    assert (per_token, fixed) == (4 * (norms + attention + mlp + inputs + ranks), 0)
    full, _ = layer_bytes(tiny, how_of(Full()), (), rows_of(200, 50))
    assert full == 4 * (norms + 2 * 32 + attention + mlp + inputs)
    assert layer_input_bytes(tiny, how_of(Lora())) == 4 * 32


def test_a_gpu_keeps_what_attention_gives_once(tiny):
    """In half precision one call does a whole pack; its result is what the next matrix reads."""
    adapted = adapted_matrices(tiny, Lora(rank=5))[0]
    on_cpu, _ = layer_bytes(tiny, how_of(Lora(), "bfloat16"), adapted, rows_of(200, 50))
    on_gpu, _ = layer_bytes(tiny, how_of(Lora(), "bfloat16", "cuda"), adapted, rows_of(200, 50))
    probabilities, sums = 4 * 50 * 2, 4 * 4
    assert on_cpu - on_gpu == probabilities - sums


def test_keys_of_a_shared_prefix_are_copied_for_each_group_of_rows(tiny):
    adapted = adapted_matrices(tiny, Lora(rank=5))[0]
    alone, _ = layer_bytes(tiny, how_of(Lora()), adapted, rows_of(840, 120))
    sharing = Packs(840, 300, 620.0, 600, 12.0, 1, 840, 12.0)
    shared, _ = layer_bytes(tiny, how_of(Lora()), adapted, sharing)
    groups = 240 / 64
    assert shared - alone == pytest.approx(4 * 2 * 16 * groups * 600 / 840)


def built(family: str, layers: int, spec: Any, *, half: bool) -> Any:
    sizes: dict[str, Any] = dict(SIZES)
    if family in ("qwen2", "phi3"):
        # Their heads share the hidden size out.
        sizes |= {"hidden_size": 96, "head_dim": None}
    if family.startswith("gemma") and family != "gemma":
        sizes["layer_types"] = ["full_attention"] * layers
    if family == "smollm3":
        sizes["no_rope_layers"] = [1] * layers
    config = config_of_family(family, num_hidden_layers=layers, **{k: v for k, v in sizes.items() if v is not None})
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
    model = make_technique(spec).prepare(model, seed=0)
    for parameter in model.parameters() if half and spec.name != "full" else ():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def kept_by_autograd(model: Any, pack: Pack, *, half: bool) -> int:
    """Bytes of all tensors that are kept for the backward pass, weights left out."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, or its place would be given to the next one.
            kept[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    with (
        training_mode(model, False),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        next_token_losses(model, pack)[0].sum().backward()
    return sum(size for size, _ in kept.values())


def one_pack() -> Pack:
    (row,) = counting_rows(1)
    rows = []
    for at in range(ROWS):
        ids = (row.token_ids_T[:1].repeat(ROW) + at) % 400
        trained = row.trained_T[:1].repeat(ROW)
        trained[:], trained[30:] = False, True
        rows.append((at, dataclasses.replace(row, token_ids_T=ids, trained_T=trained)))
    (pack,) = lay_out(rows, tokens_per_micro_batch=1000, share_prefix=False)
    return pack


FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one == "llama" else pytest.mark.slow) for one in FAMILIES]
)
def test_a_layer_keeps_what_autograd_keeps_for_it(family, name, products):
    """The difference that a third layer makes, within two percent; probabilities under soft caps are the least sure."""
    spec, pack, half = TECHNIQUES[name], one_pack(), products == "bfloat16"
    two, three = (built(family, layers, spec, half=half) for layers in (2, 3))
    real = kept_by_autograd(three, pack, half=half) - kept_by_autograd(two, pack, half=half)
    shape = shape_of_config(two.config.to_dict(), family)
    adapted = adapted_matrices(shape, spec)[0]
    per_token, fixed = layer_bytes(shape, how_of(spec, products), adapted, rows_of(pack.tokens, ROW))
    assert per_token * pack.tokens + fixed == pytest.approx(real, rel=0.02)
