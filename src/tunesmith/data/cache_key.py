"""The name under which tokens are kept: a hash of everything that decides them, so that stale tokens are impossible."""

from __future__ import annotations

import hashlib
from datetime import date
from importlib.metadata import version
from typing import Any

import orjson

from tunesmith.data.store import STORE_VERSION
from tunesmith.tasks import PreparedTask

# Raised whenever rendering or cutting changes which tokens come out or train.
RENDER_VERSION = 3


def cache_key(
    tokenizer: Any,
    *,
    data_fingerprint: str,
    rows: str,
    task: PreparedTask,
    objective: str = "sft",
    max_length: int,
    on_long_rows: str,
    on_bad_rows: str = "refuse",
    limit: int | None = None,
    model_kind: str | None = None,
) -> str:
    """A name for the tokens of some rows under a tokenizer and a task.

    Args:
        tokenizer: The tokenizer, by content: vocabulary, rules, special tokens and template.
        data_fingerprint: ``Inspection.fingerprint``; of several sources, all of them.
        rows: Which rows of the data: the side of the split with its seed and fraction, or ``all``.
        task: The prepared task.
        objective: Name of the objective, which decides what trains.
        max_length: As in :func:`tunesmith.data.tokenize.tokenize_examples`; so are the others.
        on_long_rows: Likewise.
        on_bad_rows: Likewise.
        limit: Likewise.
        model_kind: Where labels stand, for objectives with a head; None for all others.
    """
    backend = orjson.loads(tokenizer.backend_tokenizer.to_str())
    # These two only remember the last call.
    backend.pop("padding", None)
    backend.pop("truncation", None)
    template = tokenizer.chat_template
    facts = {
        "store": STORE_VERSION,
        "render": RENDER_VERSION,
        "libraries": [version("transformers"), version("tokenizers")],
        "tokenizer": hashlib.sha256(orjson.dumps(backend)).hexdigest(),
        "template": template,
        "special_tokens": {name: str(text) for name, text in tokenizer.special_tokens_map.items()},
        # Such a template writes the day into the text.
        "day": date.today().isoformat() if "strftime_now" in str(template) else None,
        "data": data_fingerprint,
        "rows": rows,
        "task": task.identity,
        "objective": objective,
        "max_length": max_length,
        "on_long_rows": on_long_rows,
        "on_bad_rows": on_bad_rows,
        "limit": limit,
        "head": None if model_kind is None else [model_kind, list(task.labels)],
    }
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
