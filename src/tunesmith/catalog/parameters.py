"""How many parameters an architecture has, from its numbers alone."""

from __future__ import annotations

from tunesmith.catalog.entries import CatalogEntry

_QUERY_KEY_NORMS = {"qwen3", "gemma3_text"}
_QUERY_KEY_VALUE_BIASES = {"qwen2"}
_FOUR_NORMS_A_LAYER = {"gemma2", "gemma3_text"}
_TOKEN_KINDS = 2


def count_parameters(entry: CatalogEntry) -> int:
    """Parameters of a model; tied embeddings are counted once.

    Fused matrices have the size of their parts, so that families with and without them need no difference.
    """
    if entry.kind == "encoder":
        return _count_encoder(entry)
    hidden = entry.hidden_size
    query_size = entry.attention_heads * entry.head_dim
    key_value_size = entry.key_value_heads * entry.head_dim
    layer = hidden * (query_size + 2 * key_value_size) + query_size * hidden + 3 * hidden * entry.intermediate_size
    layer += hidden * (4 if entry.architecture in _FOUR_NORMS_A_LAYER else 2)
    if entry.architecture in _QUERY_KEY_NORMS:
        layer += 2 * entry.head_dim
    if entry.architecture in _QUERY_KEY_VALUE_BIASES:
        layer += query_size + 2 * key_value_size
    embeddings = entry.vocabulary_size * hidden * (1 if entry.tied_embeddings else 2)
    return embeddings + entry.layers * layer + hidden


def _count_encoder(entry: CatalogEntry) -> int:
    """BERT: learned positions, two kinds of tokens, biases everywhere, and a pooler."""
    hidden, inner = entry.hidden_size, entry.intermediate_size
    embeddings = (entry.vocabulary_size + entry.context_length + _TOKEN_KINDS) * hidden + 2 * hidden
    square = hidden * hidden + hidden
    layer = 4 * square + 2 * hidden * inner + inner + hidden + 4 * hidden
    return embeddings + entry.layers * layer + square
