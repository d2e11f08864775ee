"""Whatever technique made a model, it is served as the PEFT library runs it, beside its base or on a copy of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from technique_cases import QUIET, SUITE, load_base
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.generation import Decoding, generate
from tunesmith.generation.pools import LonePool, SharedPool
from tunesmith.inference.batching.batch import Batch
from tunesmith.inference.batching.writers import Writers
from tunesmith.inference.requests import Request
from tunesmith.models.low_rank_adapters import why_not_low_rank
from tunesmith.models.quantized import keep_numbers
from tunesmith.techniques.table import TECHNIQUES, make_technique
from tunesmith.wire.serving import ServedModel

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

# Those whose rows share the base with all others.
BESIDE = {"lora", "dora", "qlora", "qlora-int8", "qlora-loftq", "qdora"}
# Those that leave a whole model.
WHOLE = {"full", "freeze"}
FAST = {"lora", "dora", "qlora", "ia3", "ln_tuning", "prefix_tuning", "prompt_tuning", "vera", "full"}
CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SUITE]
PROMPT = [17, 23, 42, 99, 123]
DECODING = Decoding(max_new_tokens=10)


@dataclass(frozen=True)
class Saved:
    """What a technique left on disk."""

    name: str
    technique: Any
    base: Path
    folder: Path

    @property
    def served(self) -> ServedModel:
        return ServedModel("tuned", self.folder) if self.name in WHOLE else ServedModel("tuned", self.base, self.folder)

    def elsewhere(self) -> Any:
        """The model as its format's owner loads it."""
        model = SUITE[self.name].load(self.technique, self.base, self.folder)
        keep_numbers(model)
        return model.eval()


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    name = request.param
    root = tmp_path_factory.mktemp(name)
    base, folder = root / "base", root / "saved"
    tokenizer = tiny_tokenizer(base)
    tiny_causal_model("llama", base, tie_word_embeddings=False)
    technique = make_technique(SUITE[name].spec)
    model = technique.prepare(load_base(technique, base), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in technique.trainable_state(model).values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    folder.mkdir()
    technique.save(model, folder, base_model="a-base-model")
    if name in WHOLE:
        tokenizer.save_pretrained(folder)
    if technique.quantization is not None:
        how = {"quantization": technique.quantization.kind, "double_quantization": technique.quantization.double}
        (folder / "resolved.json").write_text(json.dumps({"portable": {"technique": {"value": how}}}))
    return Saved(name, technique, base, folder)


def test_every_technique_is_tried() -> None:
    assert {case.spec.name for case in SUITE.values()} == TECHNIQUES.keys()


def test_what_is_more_than_low_rank_factors_says_so(saved: Saved) -> None:
    if saved.name in WHOLE:
        assert not (saved.folder / "adapter_config.json").exists()
        return
    reason = why_not_low_rank(saved.folder)
    if saved.name in BESIDE:
        assert reason is None
    else:
        assert reason == f"it is of the method {saved.name.upper()}"


def test_it_is_served_as_its_owner_runs_it(saved: Saved) -> None:
    writers = Writers({"tuned": saved.served, "base": ServedModel("base", saved.base)})
    opened = writers.open("tuned")
    assert (opened.adapter is not None) == (saved.name in BESIDE)
    if saved.name in BESIDE and saved.technique.quantization is None:
        assert opened.batch is writers.open("base").batch
    pool = LonePool if saved.name not in BESIDE | WHOLE else SharedPool
    assert isinstance(opened.batch.pool, pool)
    owner = saved.elsewhere()
    tokenizer = opened.batch.writer.tokenizer
    prompts = [PROMPT, PROMPT[:2]]
    # One at a time: a router among the techniques looks at all tokens of a batch.
    wanted = [generate(owner, tokenizer, [prompt], DECODING, tokens_per_batch=100)[0] for prompt in prompts]
    assert written(opened.batch, opened.adapter, prompts) == [list(one.token_ids) for one in wanted]
    assert changes_something(saved, owner)


def written(batch: Batch, adapter: Any, prompts: list[list[int]]) -> list[list[int]]:
    going = [batch.admit(Request("tuned", prompt, DECODING), adapter) for prompt in prompts]
    while batch.rows:
        batch.advance()
    return [list(taken.parts[0].answer().token_ids) for taken in going]


@torch.inference_mode()
def changes_something(saved: Saved, owner: Any) -> bool:
    """Else two ways that both leave it out would agree."""
    (owner.get_base_model() if hasattr(owner, "get_base_model") else owner).set_attn_implementation("sdpa")
    tokens = torch.tensor([PROMPT])
    plain = transformers.AutoModelForCausalLM.from_pretrained(saved.base)
    return bool((owner(tokens).logits[:, -len(PROMPT) :] - plain(tokens).logits).abs().max() > 0.01)
