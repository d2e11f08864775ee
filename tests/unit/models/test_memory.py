"""Memory that runs out is told with a remedy wherever a model is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_causal_model, tiny_tokenizer
from tiny_training import counting_rows

from tunesmith.errors import ResourceError
from tunesmith.evaluation.held_out import Layout, held_out_losses
from tunesmith.generation import Decoding, generate, stream
from tunesmith.models.memory import telling_memory_errors


@pytest.fixture
def starved(tmp_path: Path) -> Any:
    """A model whose first allocation is refused by the system."""
    model = tiny_causal_model("llama", tmp_path)
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: torch.empty(2**60) and None)
    return model


def all_at_once(model: Any, tokenizer: Any, decoding: Decoding) -> object:
    return generate(model, tokenizer, [[5, 6, 7]], decoding, tokens_per_batch=64)


def piece_by_piece(model: Any, tokenizer: Any, decoding: Decoding) -> object:
    return next(stream(model, tokenizer, [5, 6, 7], decoding))


@pytest.mark.parametrize("answer", [all_at_once, piece_by_piece])
def test_generating_says_what_to_ask_less_of(answer: Callable[..., object], starved: Any, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    with pytest.raises(ResourceError, match="not enough memory to continue prompts") as caught:
        answer(starved, tokenizer, Decoding(max_new_tokens=9))
    assert (caught.value.code, caught.value.value) == ("resource.memory", "up to 3 tokens, 9 new ones")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_measuring_says_what_to_lower(starved: Any) -> None:
    items = [counting_rows(2).item(0)]
    layout = Layout(256, "padded", share_prefix=False)
    with pytest.raises(ResourceError, match="held-out rows") as caught:
        held_out_losses(starved, items, lambda model, pack: model(torch.tensor(pack.token_ids_T)[None]), layout)
    assert caught.value.place == "train.tokens_per_micro_batch"


def test_accelerators_run_out_in_their_own_way_and_other_errors_stay() -> None:
    with pytest.raises(ResourceError, match="too little"), telling_memory_errors("too little", hint="take less"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="a shape does not fit"), telling_memory_errors("too little", hint="x"):
        raise RuntimeError("a shape does not fit")
