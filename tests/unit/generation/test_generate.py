"""Batched generation gives the tokens of one prompt at a time, and ends where it should."""

from __future__ import annotations

import random
from pathlib import Path

import peft
import pytest
import torch
from tiny_models import CONTEXT_LENGTH, END_OF_TURN, FAMILIES, tiny_causal_model, tiny_tokenizer

from tunesmith.errors import DataError, Stopped, UsageError
from tunesmith.generation import Decoding, generate, shares_prefix, stream

PREFIX_LENGTH = 21

# PEFT 0.21 asks Transformers 5.23 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def llama(tmp_path):
    return tiny_causal_model("llama", tmp_path).double()


def some_prompts(seed: int, rows: int, prefix_length: int, longest: int = 25) -> list[list[int]]:
    source = random.Random(seed)
    prefix = [source.randrange(3, 400) for _ in range(prefix_length)]
    return [prefix + [source.randrange(3, 400) for _ in range(source.randrange(1, longest))] for _ in range(rows)]


def library_tokens(model, prompt, new_tokens, stop=2):
    """What Transformers' own generate gives for one prompt, up to the stop token."""
    out = model.generate(torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False)
    tokens = out[0, len(prompt) :].tolist()
    return tokens[: tokens.index(stop)] if stop in tokens else tokens


def family_model(family: str, folder: Path):
    # Tied embeddings make Gemma's random weights repeat one token, and then nothing could go wrong.
    untied = {"tie_word_embeddings": False} if family.startswith("gemma") else {}
    return tiny_causal_model(family, folder, **untied).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_the_librarys_one_by_one(family, tokenizer, tmp_path):
    model = family_model(family, tmp_path)
    prompts = some_prompts(seed=1, rows=7, prefix_length=PREFIX_LENGTH)
    wanted = [library_tokens(model, prompt, 16) for prompt in prompts]
    answers = generate(model, tokenizer, prompts, Decoding(max_new_tokens=16), tokens_per_batch=150)
    assert [list(answer.token_ids) for answer in answers] == wanted
    assert {answer.shared_prefix_tokens for answer in answers} == {PREFIX_LENGTH}
    assert len({tuple(tokens) for tokens in wanted}) == len(prompts)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_family_unknown_to_slot_attention_gives_the_same_tokens_without_sharing(
    family, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("tunesmith.generation.forward.SLOT_FAMILIES", frozenset())
    # In float64 the library's own eager attention gives NaN for padded rows.
    model = family_model(family, tmp_path).float()
    prompts = some_prompts(seed=2, rows=5, prefix_length=PREFIX_LENGTH)
    answers = generate(model, tokenizer, prompts, Decoding(max_new_tokens=12), tokens_per_batch=500)
    assert [list(answer.token_ids) for answer in answers] == [library_tokens(model, p, 12) for p in prompts]
    assert not shares_prefix(model)
    assert {answer.shared_prefix_tokens for answer in answers} == {0}


def test_long_prompts_in_pieces_give_the_same_tokens(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.generation.forward._TOKENS_AT_ONCE", 16)
    model = family_model("gemma3_text", tmp_path)
    prompts = some_prompts(seed=3, rows=3, prefix_length=40, longest=60)
    answers = generate(model, tokenizer, prompts, Decoding(max_new_tokens=6), tokens_per_batch=1000)
    assert [list(answer.token_ids) for answer in answers] == [library_tokens(model, p, 6) for p in prompts]


def test_prompts_that_cross_the_length_where_phi3_rotates_differently(tokenizer, tmp_path):
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 40,
        "long_factor": [4.0] * 4,
        "short_factor": [1.0] * 4,
    }
    model = tiny_causal_model("phi3", tmp_path, rope_parameters=scaling, original_max_position_embeddings=40).double()
    prompts = [*some_prompts(seed=4, rows=3, prefix_length=10, longest=6), *some_prompts(4, 1, 10, 6)]
    prompts.append(some_prompts(seed=5, rows=1, prefix_length=32, longest=4)[0])
    prompts.append(some_prompts(seed=6, rows=1, prefix_length=50, longest=4)[0])
    answers = generate(model, tokenizer, prompts, Decoding(max_new_tokens=16), tokens_per_batch=1000)
    assert [list(answer.token_ids) for answer in answers] == [library_tokens(model, p, 16) for p in prompts]
    assert [answer.shared_prefix_tokens for answer in answers] == [10] * 4 + [0, 0]


def test_an_adapter_takes_part_and_disabling_it_gives_the_base_model(llama, tokenizer):
    prompts = some_prompts(seed=7, rows=4, prefix_length=12)
    decoding = Decoding(max_new_tokens=10)
    before = generate(llama, tokenizer, prompts, decoding, tokens_per_batch=500)
    torch.manual_seed(0)
    tuned = peft.get_peft_model(
        llama, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    after = generate(tuned, tokenizer, prompts, decoding, tokens_per_batch=500)
    assert [list(answer.token_ids) for answer in after] == [library_tokens(tuned, p, 10) for p in prompts]
    assert [answer.token_ids for answer in after] != [answer.token_ids for answer in before]
    with tuned.disable_adapter():
        assert generate(tuned, tokenizer, prompts, decoding, tokens_per_batch=500) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_dtype_generates(dtype, tokenizer, tmp_path):
    model = tiny_causal_model("llama", tmp_path).to(dtype)
    answers = generate(model, tokenizer, some_prompts(8, 3, 12), Decoding(max_new_tokens=5), tokens_per_batch=500)
    assert all(answer.finish_reason in {"stop", "length"} for answer in answers)


def test_the_model_is_left_as_it_was(llama, tokenizer):
    llama.train()
    llama.model.layers[0].eval()
    before = llama.config._attn_implementation
    generate(llama, tokenizer, some_prompts(9, 2, 12), Decoding(max_new_tokens=3), tokens_per_batch=500)
    assert llama.training
    assert not llama.model.layers[0].training
    assert llama.config._attn_implementation == before
    loss = llama(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()
    assert torch.isfinite(llama.lm_head.weight.grad).all()


def test_sampled_tokens_depend_on_seed_and_not_on_the_batching(llama, tokenizer):
    prompts = some_prompts(seed=10, rows=6, prefix_length=12)

    def sampled(seed: int, tokens_per_batch: int):
        decoding = Decoding(max_new_tokens=12, temperature=0.8, top_p=0.9, seed=seed)
        answers = generate(llama, tokenizer, prompts, decoding, tokens_per_batch=tokens_per_batch)
        return [answer.token_ids for answer in answers]

    assert sampled(1, 1) == sampled(1, 5000)
    assert sampled(1, 5000) != sampled(2, 5000)


def test_a_tiny_top_p_is_greedy(llama, tokenizer):
    prompts = some_prompts(seed=11, rows=3, prefix_length=0)
    greedy = generate(llama, tokenizer, prompts, Decoding(max_new_tokens=8), tokens_per_batch=500)
    narrow = Decoding(max_new_tokens=8, temperature=1.0, top_p=1e-9)
    assert generate(llama, tokenizer, prompts, narrow, tokens_per_batch=500) == greedy


def test_sampling_follows_the_models_probabilities(llama, tokenizer):
    prompt = [5, 9, 14]
    with torch.inference_mode():
        expected = torch.softmax(llama(torch.tensor([prompt])).logits[0, -1], dim=-1)
    rows = 1500
    decoding = Decoding(max_new_tokens=1, temperature=1.0, stop_token_ids=())
    answers = generate(llama, tokenizer, [prompt] * rows, decoding, tokens_per_batch=8000)
    counts = torch.bincount(torch.tensor([answer.token_ids[0] for answer in answers]), minlength=400)
    likeliest = int(expected.argmax())
    share = float(expected[likeliest])
    assert float(counts[likeliest]) / rows == pytest.approx(share, abs=4 * (share * (1 - share) / rows) ** 0.5)


def test_stop_token_ends_a_row_and_is_not_part_of_it(llama, tokenizer):
    prompt = [5, 9, 14]
    free = generate(llama, tokenizer, [prompt], Decoding(max_new_tokens=8, stop_token_ids=()), tokens_per_batch=500)[0]
    assert free.finish_reason == "length"
    stop = free.token_ids[3]
    ended = generate(
        llama, tokenizer, [prompt, [7, 8]], Decoding(max_new_tokens=8, stop_token_ids=(stop,)), tokens_per_batch=500
    )[0]
    assert ended.token_ids == free.token_ids[: free.token_ids.index(stop)]
    assert ended.finish_reason == "stop"


def test_the_models_own_end_token_is_the_default(llama, tokenizer):
    ends = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    llama.config.eos_token_id = None
    llama.generation_config.eos_token_id = [399, 398]
    assert tokenizer.eos_token_id == ends
    free = generate(llama, tokenizer, [[5, 9]], Decoding(max_new_tokens=4, stop_token_ids=()), tokens_per_batch=500)[0]
    llama.generation_config.eos_token_id = [399, free.token_ids[1]]
    assert len(generate(llama, tokenizer, [[5, 9]], Decoding(max_new_tokens=4), tokens_per_batch=500)[0].token_ids) <= 1


def test_streamed_pieces_are_the_generated_text(llama, tokenizer):
    for prompt in some_prompts(seed=12, rows=6, prefix_length=0):
        decoding = Decoding(max_new_tokens=30, stop=("e", "The"))
        whole = generate(llama, tokenizer, [prompt], decoding, tokens_per_batch=500)[0]
        *pieces, last = stream(llama, tokenizer, prompt, decoding)
        assert "".join(piece.text for piece in [*pieces, last]) == whole.text
        assert tuple(piece.token_id for piece in pieces) == whole.token_ids
        assert (last.finish_reason, last.prompt_tokens) == (whole.finish_reason, len(prompt))
        assert all(stop not in whole.text for stop in decoding.stop)


def test_a_row_ends_where_the_context_ends(llama, tokenizer):
    prompt = [5] * (CONTEXT_LENGTH - 3)
    decoding = Decoding(max_new_tokens=10, stop_token_ids=())
    answer = generate(llama, tokenizer, [prompt], decoding, tokens_per_batch=10)[0]
    assert (len(answer.token_ids), answer.finish_reason) == (3, "length")


def test_unusable_prompts_are_all_named(llama, tokenizer):
    with pytest.raises(DataError) as caught:
        generate(llama, tokenizer, [[5], [], [5] * CONTEXT_LENGTH], Decoding(), tokens_per_batch=10)
    assert [problem.place for problem in caught.value.problems] == ["prompt 2", "prompt 3"]


def test_settings_that_make_no_sense_are_all_named():
    with pytest.raises(UsageError) as caught:
        Decoding(max_new_tokens=0, temperature=-1, top_p=0, stop=("",))
    assert [problem.place for problem in caught.value.problems] == ["max_new_tokens", "temperature", "top_p", "stop"]


def test_progress_and_stopping(llama, tokenizer):
    seen = []
    prompts = some_prompts(seed=13, rows=5, prefix_length=0)
    generate(
        llama,
        tokenizer,
        prompts,
        Decoding(max_new_tokens=4),
        tokens_per_batch=60,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(Stopped):
        generate(llama, tokenizer, prompts, Decoding(), tokens_per_batch=60, should_stop=lambda: True)


def test_no_prompts_no_answers(llama, tokenizer):
    assert generate(llama, tokenizer, [], Decoding(), tokens_per_batch=60) == []
