"""Which saved adapters are factors beside layers, and which of those fit a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_adapters import load_double, save_adapter
from tiny_models import tiny_causal_model

from tunesmith.errors import ModelError
from tunesmith.models.low_rank_adapters import read_low_rank, why_not_low_rank

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # And it tells of what these adapters are made to be.
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:peft"),
]
LAYER = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "base"
    tiny_causal_model("llama", folder, tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    return save_adapter(base, base.parent / "plain", r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "copy")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_the_library_saves_is_understood(plain: Path) -> None:
    assert why_not_low_rank(plain) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "it brings whole layers"),
        ({"trainable_token_indices": [5]}, "it brings tokens"),
        ({"bias": "lora_only"}, "it brings biases"),
        ({"lora_bias": True}, "it brings biases"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "it has weights that are not factors"),
        ({"alora_invocation_tokens": [7, 8]}, "it begins at a token"),
        ({"target_parameters": ["q_proj.weight"], "target_modules": []}, "its config says more"),
    ],
)
def test_what_is_more_is_left_to_the_library(base: Path, tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    wanted = {"r": 2, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **settings}
    peft.get_peft_model(load_double(base), peft.LoraConfig(**wanted)).save_pretrained(tmp_path / "saved")
    found = why_not_low_rank(tmp_path / "saved")
    assert found is not None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init_lora_weights": "pissa"}, "it begins with pissa, which changes the base"),
        ({"init_lora_weights": "loftq"}, "it begins with loftq, which changes the base"),
        ({"use_qalora": True}, "its config says more than is read here: use_qalora"),
        ({"kasa_config": {"beta": 1}}, "its config says more than is read here: kasa_config"),
        ({"invented_later": 3}, "its config says more than is read here: invented_later"),
        ({"peft_type": "VERA"}, "it is of the method VERA"),
        ({"layer_replication": [[0, 2]]}, "it repeats layers"),
    ],
)
def test_a_config_that_says_more_than_is_read_is_left_to_the_library(
    copy: Path, changes: dict[str, Any], reason: str
) -> None:
    change_config(copy, **changes)
    assert why_not_low_rank(copy) == reason


@pytest.mark.parametrize("spread", ["layer", "shape", "rank", "half", "magnitude", "kind"])
def test_an_adapter_that_does_not_fit_is_refused_by_its_layers_name(base: Path, copy: Path, spread: str) -> None:
    path = copy / "adapter_model.safetensors"
    weights = load_file(path)
    down, up = (f"base_model.model.{LAYER}.lora_{side}.weight" for side in "AB")
    wanted = {
        "layer": ("model.layers.9.self_attn.q_proj", "the model has no such layer"),
        "shape": (LAYER, "the layer has 32 x 32, the adapter 32 x 48"),
        "rank": (LAYER, "its factors have ranks of 3 and 4"),
        "half": (LAYER, "a factor is missing"),
        "magnitude": (".q_proj", "a factor is missing"),
        "kind": ("model.norm", "the layer is a LlamaRMSNorm, not a linear one"),
    }[spread]
    if spread in ("layer", "kind"):
        for old in (down, up):
            weights[old.replace(LAYER, wanted[0])] = weights.pop(old)
    elif spread == "shape":
        weights[down] = torch.zeros(4, 48)
    elif spread == "rank":
        weights[down] = torch.zeros(3, 32)
    elif spread == "half":
        del weights[up]
    else:
        change_config(copy, use_dora=True)
    save_file(weights, path)
    with pytest.raises(ModelError) as caught:
        read_low_rank(copy, load_double(base))
    assert caught.value.code == "model.adapter"
    assert caught.value.place == str(copy)
    assert wanted[0] in str(caught.value.value)
    assert wanted[1] in str(caught.value.value)


def test_folders_that_hold_no_adapter_or_a_broken_one_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter"):
        why_not_low_rank(tmp_path / "nothing")
    (copy / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="weights cannot be read"):
        why_not_low_rank(copy)
    (copy / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="holds no adapter"):
        why_not_low_rank(copy)


def test_what_factors_take_is_told(base: Path, plain: Path) -> None:
    adapter = read_low_rank(plain, load_double(base))
    assert len(adapter.layers) == 4
    assert adapter.memory_bytes == 4 * (2 * (32 + 32) + 2 * (32 + 16)) * 4
