"""A tokenizer of Transformers as the fields of a GGUF file.

Two kinds are written: byte-level BPE, whose way of splitting text llama.cpp knows by name, and BPE over pieces with
bytes for what is unknown, as SentencePiece makes it. The export's check compares tokens of held-out texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from tunesmith.errors import ModelError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS_AND_SIGNS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a text is cut into words before pairs are merged, by the name that llama.cpp has for it.
_BY_EXPRESSION: Mapping[str, str] = {
    rf"{_CONTRACTIONS}|{_WORDS_AND_SIGNS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|{_WORDS_AND_SIGNS}|\p{{N}}|{_REST}": "qwen2",
}
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def write_tokenizer(tokenizer: Any, vocabulary_size: int, writer: GGUFWriter) -> None:
    """Write tokens, merges or scores, special tokens and the chat template.

    Args:
        tokenizer: A fast tokenizer.
        vocabulary_size: Rows of the embeddings; those that have no token are written as unused.
        writer: Of the file.

    Raises:
        ModelError: ``export.gguf_tokenizer``.
    """
    parts = _parts(tokenizer)
    model = parts["model"]
    tokens, types = _tokens(tokenizer, parts, vocabulary_size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(model, tokens))
        writer.add_token_types(types)
        writer.add_add_space_prefix(_adds_space(tokenizer))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(parts))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(_pair(merge)) for merge in model["merges"]])
    _write_special(tokenizer, writer)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _parts(tokenizer: Any) -> Mapping[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {}
    kind = parts.get("model", {}).get("type")
    if kind != "BPE":
        raise _refused(f"its kind is {kind or type(tokenizer).__name__}, and only BPE is written")
    return dict(parts)


def _tokens(tokenizer: Any, parts: Mapping[str, Any], vocabulary_size: int) -> tuple[list[str], list[TokenType]]:
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry for entry in parts["added_tokens"]}
    tokens, types = [], []
    for number in range(max(vocabulary_size, 1 + max(by_id))):
        token = by_id.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(TokenType.UNUSED)
            continue
        tokens.append(token)
        types.append(_type_of(token, number, added, tokenizer, byte_fallback=bool(parts["model"].get("byte_fallback"))))
    if len(tokens) > vocabulary_size:
        raise _refused(f"it has {len(tokens)} tokens, and the model has {vocabulary_size}")
    return tokens, types


def _type_of(token: str, number: int, added: Mapping[int, Any], tokenizer: Any, *, byte_fallback: bool) -> TokenType:
    if byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return TokenType.BYTE
    if byte_fallback and number == tokenizer.unk_token_id:
        return TokenType.UNKNOWN
    if number in added:
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return str(first), str(second)


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """llama.cpp merges the pair whose piece has the highest score: the earlier a merge stands, the higher it is."""
    rank: dict[str, int] = {}
    for place, merge in enumerate(model["merges"]):
        rank.setdefault("".join(_pair(merge)), place)
    return [-float(rank.get(token, len(rank))) for token in tokens]


def _adds_space(tokenizer: Any) -> bool:
    pieces = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens
    return bool(pieces) and pieces[0].startswith(_SPACE)


def _pre_tokenizer(parts: Mapping[str, Any]) -> str:
    found = parts.get("pre_tokenizer") or {}
    steps = found["pretokenizers"] if found.get("type") == "Sequence" else [found]
    kinds = [step.get("type") for step in steps]
    if steps[-1].get("add_prefix_space"):
        raise _refused("it puts a space before texts, which llama.cpp does not do for byte-level tokenizers")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        expression = steps[0].get("pattern", {}).get("Regex", "")
        if expression in _BY_EXPRESSION and steps[0].get("behavior") == "Isolated":
            return _BY_EXPRESSION[expression]
    raise _refused(f"it splits texts in a way that is not tested in llama.cpp here: {json.dumps(found)[:200]}")


def _write_special(tokenizer: Any, writer: GGUFWriter) -> None:
    known = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, write in known.items():
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            write(int(number))
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and ids[-1] == tokenizer.eos_token_id)


def _refused(reason: str) -> ModelError:
    return ModelError(
        "the tokenizer cannot be written into a GGUF file",
        code="export.gguf_tokenizer",
        value=reason,
        hint="export to merged or onnx, which take the tokenizer as it is",
    )
