"""``Modelfile``: how Ollama takes a GGUF file, with the chat template in Ollama's language where that can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.export.chat_turns import Turns, turns_of

_NOT_DERIVED = """\
# The chat template of this model is more than a list of turns, so it is not said here in Ollama's language;
# Ollama goes by the template inside the GGUF file where it knows it.
"""


def modelfile(tokenizer: Any, file_name: str, stop_token_ids: Sequence[int], context_length: int | None) -> str:
    """The text of the file.

    Args:
        tokenizer: With its chat template.
        file_name: Of the GGUF file beside it.
        stop_token_ids: Tokens at which answers end.
        context_length: Most tokens of a conversation; None leaves it to Ollama.
    """
    parts = [f"FROM ./{file_name}\n"]
    turns = turns_of(tokenizer)
    template = None if turns is None else _go_template(turns)
    if template is not None:
        parts.append(f'TEMPLATE """{template}"""\n')
        if turns is not None and turns.default_system is not None:
            parts.append(f'SYSTEM """{turns.default_system}"""\n')
    elif tokenizer.chat_template is not None:
        parts.append(_NOT_DERIVED)
    for token in stop_token_ids:
        text = tokenizer.convert_ids_to_tokens(int(token))
        if text and '"' not in text and "\n" not in text:
            parts.append(f'PARAMETER stop "{text}"\n')
    if context_length is not None:
        parts.append(f"PARAMETER num_ctx {context_length}\n")
    return "".join(parts)


def _go_template(turns: Turns) -> str | None:
    """The turns in Go's template language; the token that begins a text is left out, since Ollama puts it there."""
    system, user, assistant = turns.system, turns.user, turns.assistant
    said = [*(system or ()), *user, *assistant, turns.default_system or ""]
    if any("{{" in text or '"""' in text for text in said):
        return None
    branches = [] if system is None else [("system", system)]
    branches += [("user", user), ("assistant", assistant)]
    lines = [
        f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}{start}{{{{ .Content }}}}{end}'
        for number, (role, (start, end)) in enumerate(branches)
    ]
    return "{{ range .Messages }}" + "".join(lines) + "{{ end }}{{ end }}"
