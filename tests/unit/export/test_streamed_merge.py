"""Merging file by file: the same weights as merging the whole model, in the memory of one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from technique_cases import QUIET, SUITE, load_base
from tiny_models import tiny_causal_model, tiny_model_folder

from tunesmith.export.form import Options
from tunesmith.export.merged import write_merged
from tunesmith.export.source import Source, load_source
from tunesmith.export.source import load_base as load_source_base
from tunesmith.export.streamed_merge import FROM_WHOLE_MODEL, LayerMerges, plan_streamed_merge
from tunesmith.models.adapters import with_adapter
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer
from tunesmith.models.new_tokens import add_token_rows, extend_tokenizer
from tunesmith.models.quantized import dequantize
from tunesmith.techniques.adapter import merge_adapter
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.table import make_technique

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
MERGED = [name for name, case in SUITE.items() if case.merges and name not in ("full", "freeze")]
FAST = ("lora", "dora", "ia3", "oft", "psoft", "qlora")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several files, so that layers lie in more than one."""
    folder = tiny_model_folder("llama", tmp_path_factory.mktemp("base"), hidden_size=64, head_dim=16)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def learned(technique: Any, base: Path, folder: Path) -> Source:
    """An adapter whose every number was moved."""
    technique.save(technique.prepare(load_base(technique, base), 0), folder, str(base))
    path = folder / "adapter_model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        moved = {
            name: tensor + 0.05 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
    save_file(moved, path, metadata={"format": "pt"})
    return Source("one", base, folder, load_tokenizer(base), quantization=technique.quantization)


def export(source: Source, folder: Path, precision: str = "float32") -> tuple[dict[str, Any], list[str]]:
    warnings: list[str] = []
    folder.mkdir()
    return write_merged(source, folder, Options(precision, folder, warn=warnings.append)), warnings


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in MERGED]
)
def test_every_method_merges_to_the_same_weights_both_ways(name: str, base: Path, tmp_path: Path) -> None:
    technique = make_technique(SUITE[name].spec)
    (tmp_path / "adapter").mkdir()
    source = learned(technique, base, tmp_path / "adapter")
    facts, warnings = export(source, tmp_path / "out")
    streamed = name not in FROM_WHOLE_MODEL and technique.quantization is None
    assert facts["merged"] == ("file by file" if streamed else "whole")
    assert bool(warnings) == (not streamed)
    tokens = torch.arange(5, 25)[None]
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        adapted = load_source(source)
        unchanged = transformers.AutoModelForCausalLM.from_pretrained(base)(tokens).logits
        effect = (ours(tokens).logits - unchanged).abs()
        if source.quantization is not None and source.quantization.kind == "int8":
            # Its products round activations to eight bits too, so the weights are compared beside the adapter.
            assert (ours(tokens).logits - adapted(tokens).logits).abs().mean() < 0.5 * effect.mean()
            adapted = with_adapter(dequantize(load_source_base(source)), tmp_path / "adapter")
        torch.testing.assert_close(ours(tokens).logits, adapted(tokens).logits, rtol=1e-3, atol=1e-3)
        whole = merge_adapter(adapted)(tokens).logits
        torch.testing.assert_close(ours(tokens).logits, whole, rtol=1e-3, atol=1e-3)
        assert effect.max() > 0.01


def test_files_keep_their_names_and_the_config_says_the_type(base: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    source = learned(Lora(rank=4), base, tmp_path / "adapter")
    export(source, tmp_path / "out", "bfloat16")
    names = {path.name for path in base.glob("*.safetensors*")}
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors*")} == names
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_new_tokens_are_merged_with_the_whole_model_and_that_is_said(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    ids = extend_tokenizer(tokenizer, ["<sku>", "<price>"])
    model = load_model(LoadPlan(base))
    add_token_rows(model, ids)
    technique = Lora(rank=4)
    (tmp_path / "adapter").mkdir()
    technique.save(technique.prepare(model, 0, (), ids), tmp_path / "adapter", str(base))
    source = Source("one", base, tmp_path / "adapter", tokenizer)
    facts, warnings = export(source, tmp_path / "out")
    assert facts["merged"] == "whole"
    assert "trainable_token_indices" in warnings[0]
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.vocab_size == 402
    tokens = torch.tensor([[5, *ids, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(merged(tokens).logits, load_source(source)(tokens).logits, rtol=1e-4, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("<sku>")["input_ids"] == [ids[0]]


def test_a_layer_is_without_weights_before_and_after(base: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    plan = plan_streamed_merge(learned(Lora(rank=4), base, tmp_path / "adapter"))
    assert isinstance(plan, LayerMerges)
    layer = plan.layers["model.layers.0.self_attn.q_proj"]
    plan.merged("model.layers.0.self_attn.q_proj", {"weight": torch.randn(64, 64)})
    assert all(tensor.untyped_storage().nbytes() == 4 for tensor in layer.get_base_layer().parameters())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_that_of_one_file(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "head_dim": 64}
    tiny_model_folder("llama", tmp_path / "base", **sizes, num_attention_heads=8)
    model = tiny_causal_model("llama", tmp_path / "base", **sizes, num_attention_heads=8)
    (tmp_path / "base" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "base", max_shard_size="20MB")
    whole = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    technique = Lora(rank=4)
    (tmp_path / "adapter").mkdir()
    technique.save(technique.prepare(model, 0), tmp_path / "adapter", str(tmp_path / "base"))
    program = f"""
import re, threading, time
from pathlib import Path
from tunesmith.export.form import Options
from tunesmith.export.merged import write_merged
from tunesmith.export.source import Source
from tunesmith.models.load import load_tokenizer
folder = Path({str(tmp_path)!r})
source = Source("one", folder / "base", folder / "adapter", load_tokenizer(folder / "base"))
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
import peft, transformers
from transformers.models.llama import modeling_llama
before, most, done = anonymous(), 0, False
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
(folder / "out").mkdir()
write_merged(source, folder / "out", Options("float32", folder))
done = True
thread.join()
print(most - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200)
    grown = int(done.stdout.split()[-1])
    # Two files of 20 MB at the moment when one is written, and what libraries take.
    assert whole > 150e6
    assert grown < 80e6, grown
