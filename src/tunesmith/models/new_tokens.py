"""Tokens that a model did not have: added to the tokenizer, and given rows in the model's embeddings.

ids = extend_tokenizer(tokenizer, ["<sku>", "<price>"])
add_token_rows(model, ids)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import ModelError, Problem
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import read_json


def extend_tokenizer(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Add tokens to a tokenizer, in place, and give their numbers.

    Raises:
        ModelError: ``model.known_token``: the tokenizer has one of them.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    problems = [
        Problem("model.known_token", "the tokenizer has this token", place="data.new_tokens", value=token)
        for token in tokens
        if token in known
    ]
    if problems:
        raise ModelError(
            "tokens are new only where the tokenizer does not have them",
            code="model.known_token",
            hint="leave them out of data.new_tokens; they train with the model's own rows",
            problems=problems,
        )
    if not tokens:
        return ()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    return tuple(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens)


@torch.no_grad()
def add_token_rows(model: Any, token_ids: Sequence[int]) -> None:
    """Give each token a row in the embeddings and in the output matrix: the mean of the rows that were there.

    Models are often made with more rows than their tokenizer has tokens; then nothing grows, and the spare rows are
    set. Weights that are tied stay tied.
    """
    if not token_ids:
        return
    rows = model.get_input_embeddings().weight.shape[0]
    new = sorted({*token_ids, *range(rows, max(token_ids) + 1)})
    old = sorted(set(range(rows)) - set(new))
    if max(token_ids) >= rows:
        with quiet_libraries():
            # The library's own way of filling new rows draws them at random.
            model.resize_token_embeddings(max(token_ids) + 1, mean_resizing=False)
    matrices = [model.get_input_embeddings(), model.get_output_embeddings()]
    for weight in {id(one.weight): one.weight for one in matrices if one is not None}.values():
        weight[new] = weight[old].float().mean(dim=0).to(weight.dtype)


def add_rows_up_to(model: Any, token_id: int) -> None:
    """Give the model a row for every token up to ``token_id``, where it has fewer."""
    add_token_rows(model, range(model.get_input_embeddings().weight.shape[0], token_id + 1))


def token_ids_of_adapter(adapter: Path) -> tuple[int, ...]:
    """The tokens whose rows an adapter brings along; none for a folder that holds no adapter."""
    path = adapter / "adapter_config.json"
    found = (read_json(path).get("trainable_token_indices") if path.is_file() else None) or []
    lists = found.values() if isinstance(found, dict) else [found]
    return tuple(sorted({int(token) for tokens in lists for token in tokens}))


def tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """Where the tokenizer of a model lies: beside an adapter that brings tokens, else beside the base."""
    brings = adapter is not None and token_ids_of_adapter(adapter) and (adapter / "tokenizer_config.json").is_file()
    return adapter if brings and adapter is not None else base
