"""Whether a model's folder has a chat template, without its tokenizer being loaded."""

from __future__ import annotations

import json
from pathlib import Path

_SETTINGS = "tokenizer_config.json"
_OF_ITS_OWN = ("chat_template.jinja", "chat_template.json")


def has_chat_template(folder: Path) -> bool | None:
    """Whether the folder has one; None where it has no tokenizer at all, so that nothing is known."""
    if any((folder / name).is_file() for name in _OF_ITS_OWN):
        return True
    path = folder / _SETTINGS
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    return bool(settings.get("chat_template")) if isinstance(settings, dict) else None
