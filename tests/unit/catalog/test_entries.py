"""Every entry of the catalog is true: of its form, of its count, and of the modules that Transformers builds."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pytest
import torch
import transformers

from tunesmith.catalog.entries import CatalogEntry, catalog_entries, find_entry, find_entry_of_hub_id
from tunesmith.catalog.parameters import count_parameters

ENTRIES = catalog_entries()
# Entries of one size differ in name and context alone; the architecture is built once for each.
SIZES = {(entry.architecture, entry.parameters): entry for entry in ENTRIES}


def test_ids_and_hub_ids_are_unique_and_the_files_are_all_read() -> None:
    ids = [entry.id for entry in ENTRIES]
    hub_ids = [source.name.lower() for entry in ENTRIES for source in entry.sources if source.kind == "hub"]
    assert len(set(ids)) == len(ids)
    assert len(set(hub_ids)) == len(hub_ids) == len(ids)
    files = list(resources.files("tunesmith.catalog").joinpath("data").iterdir())
    assert len(files) == len({entry.family for entry in ENTRIES})


def test_the_families_are_there() -> None:
    for wanted in (
        "smollm2-135m-instruct", "smollm3-3b", "phi-3-mini-4k-instruct", "phi-3.5-mini-instruct", "phi-4",
        "phi-4-mini-instruct", "llama-3.1-8b-instruct", "llama-3.2-1b-instruct", "llama-3.3-70b-instruct",
        "qwen2.5-0.5b-instruct", "qwen2.5-72b-instruct", "qwen3-0.6b", "qwen3-32b", "gemma-2-2b-it", "gemma-3-270m-it",
        "mistral-7b-instruct-v0.3", "all-minilm-l6-v2",
    ):  # fmt: skip
        assert find_entry(wanted) is not None, wanted


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_is_well_formed(entry: CatalogEntry) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", entry.id)
    assert entry.attention_heads % entry.key_value_heads == 0
    assert set(entry.attention_targets) < set(entry.lora_targets)
    assert entry.sliding_window is None or entry.sliding_window < entry.context_length
    assert entry.licence
    assert entry.licence_url.startswith("https://")
    if entry.id.endswith("-it") or "instruct" in entry.id:
        assert entry.chat_template is True
    assert entry.kind == "causal" or entry.chat_template is False
    assert entry.gated == (entry.family in ("llama", "gemma", "mistral"))
    for source in entry.sources:
        if source.kind == "package":
            assert source.version
            assert (source.file is None) != (source.folder is None)
            assert (source.file is None) == (source.file_sha256 is None) == bool(source.files)
            assert not any("/" in name or name.startswith(".") for name in source.files)
            hashes = [digest for digest in (source.sha256, source.file_sha256) if digest is not None]
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
            assert source.sha256


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_the_count_follows_from_the_numbers(entry: CatalogEntry) -> None:
    assert abs(count_parameters(entry) - entry.parameters) < 0.01 * entry.parameters


@pytest.mark.parametrize("entry", SIZES.values(), ids=lambda entry: entry.id)
def test_transformers_builds_what_the_entry_says(entry: CatalogEntry) -> None:
    model = _meta_model(replace(entry, layers=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(replace(entry, layers=2))
    layers = model.encoder.layer if entry.kind == "encoder" else model.model.layers
    inside = [name for name, module in layers.named_modules() if isinstance(module, torch.nn.Linear)]
    assert {name.rsplit(".", 1)[1] for name in inside} == set(entry.lora_targets)
    attention = {name.rsplit(".", 1)[1] for name in inside if ".self_attn." in name or ".attention.self." in name}
    assert attention == set(entry.attention_targets)


def test_names_are_found_in_any_case() -> None:
    assert find_entry("Phi-4") is find_entry("phi-4") is not None
    assert find_entry_of_hub_id("huggingfacetb/SmolLM2-135M-Instruct") is find_entry("smollm2-135m-instruct")
    assert find_entry_of_hub_id("org/other") is None


def test_the_encoder_is_the_class_that_reads_both_ways() -> None:
    assert [entry.id for entry in ENTRIES if entry.kind == "encoder"] == ["all-minilm-l6-v2"]


def _meta_model(entry: CatalogEntry) -> transformers.PreTrainedModel:
    auto = transformers.AutoModel if entry.kind == "encoder" else transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.for_model(
        entry.architecture,
        vocab_size=entry.vocabulary_size,
        hidden_size=entry.hidden_size,
        intermediate_size=entry.intermediate_size,
        num_hidden_layers=entry.layers,
        num_attention_heads=entry.attention_heads,
        num_key_value_heads=entry.key_value_heads,
        head_dim=entry.head_dim,
        tie_word_embeddings=entry.tied_embeddings,
        max_position_embeddings=entry.context_length,
        pad_token_id=0,
    )
    with torch.device("meta"):
        return auto.from_config(config)
