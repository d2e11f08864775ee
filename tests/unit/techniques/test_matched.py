from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_causal_model
from tiny_training import counting_rows

from tunesmith.techniques.freeze import Freeze
from tunesmith.techniques.full import Full
from tunesmith.techniques.lora import Lora
from tunesmith.techniques.matched import describe_trained, trained_modules
from tunesmith.techniques.merging import logits_of, merge_difference

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_what_trains_is_told_by_name_and_number(tmp_path: Path) -> None:
    phi = Lora(targets="attention").prepare(tiny_causal_model("phi3", tmp_path), 0)
    assert trained_modules(phi) == {"o_proj": 2, "qkv_proj": 2}
    assert describe_trained(phi) == "o_proj x 2, qkv_proj x 2"
    llama = Lora(targets=["q_proj"], decomposed=True).prepare(tiny_causal_model("llama", tmp_path), 0, (), (399,))
    assert trained_modules(llama) == {"embed_tokens": 1, "q_proj": 2}
    frozen = Freeze(layers=1).prepare(tiny_causal_model("phi3", tmp_path), 0)
    assert (
        trained_modules(frozen)["lm_head"] == trained_modules(frozen)["norm"] == trained_modules(frozen)["o_proj"] == 1
    )
    assert trained_modules(Full().prepare(tiny_causal_model("llama", tmp_path), 0))["embed_tokens"] == 1


def test_a_merge_is_measured(tmp_path: Path) -> None:
    technique = Lora(rank=2)
    model = technique.prepare(tiny_causal_model("llama", tmp_path), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    rows = [counting_rows(2)[0], counting_rows(2)[1]]
    before = logits_of(model, rows)
    good = merge_difference(before, logits_of(technique.merge(model), rows))
    assert 0 < good.largest < 1e-3
    assert good.mean <= good.largest
    assert good.tokens == sum(len(row.token_ids_T) for row in rows)
    bad = merge_difference(before, logits_of(model.unload(), rows))
    assert bad.largest > 0.1
    assert str(good).startswith("logits differ by ")
