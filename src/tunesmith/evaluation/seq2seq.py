"""Models with encoder and decoder measured: the loss of what they should write, and what they do write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tunesmith.errors import Stopped
from tunesmith.evaluation.held_out import Item, LabelLosses, Layout, RowLosses, held_out_losses
from tunesmith.evaluation.questions import Asked
from tunesmith.evaluation.systems import Answers, OnProgress, Ruler, ShouldStop

# Neighbours in length share a batch of so many, which wastes little on padding.
_ROWS_AT_ONCE = 16


def seq2seq_ruler(
    tokenizer: Any,
    layout: Layout,
    label_losses: LabelLosses,
    *,
    max_new_tokens: int,
    on_progress: OnProgress,
    should_stop: ShouldStop,
) -> Ruler:
    """How models with encoder and decoder are measured; answers are greedy, by the library's own generation."""

    def losses(model: Any, items: Sequence[Item], done: Callable[[int], None], stop: ShouldStop) -> RowLosses:
        return held_out_losses(model, items, label_losses, layout, on_progress=done, should_stop=stop)

    def answers(model: Any, asked: Asked, done: Callable[[int], None], stop: ShouldStop) -> Answers:
        texts: dict[int, str] = {}
        tokens = 0
        order = sorted(range(len(asked.prompts)), key=lambda at: len(asked.prompts[at]))
        for start in range(0, len(order), _ROWS_AT_ONCE):
            if stop():
                raise Stopped("the evaluation was stopped", code="evaluation.stopped")
            chosen = order[start : start + _ROWS_AT_ONCE]
            written = write(model, tokenizer, [asked.prompts[at] for at in chosen], max_new_tokens)
            tokens += sum(len(ids) for ids in written)
            for at, ids in zip(chosen, written, strict=True):
                texts[at] = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
            done(min(start + _ROWS_AT_ONCE, len(order)))
        return Answers(tuple(texts[at] for at in range(len(texts))), tokens)

    return Ruler(losses, answers, on_progress, should_stop)


def write(model: Any, tokenizer: Any, sources: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy answers to some texts as tokens, without what pads them."""
    longest = max(len(source) for source in sources)
    pad, device = tokenizer.pad_token_id, model.device
    input_ids = torch.tensor([[*source, *[pad] * (longest - len(source))] for source in sources], device=device)
    mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources], device=device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            min_new_tokens=None,
            do_sample=False,
            num_beams=1,
        )
    return [[token for token in row if token != pad] for row in out[:, 1:].tolist()]
