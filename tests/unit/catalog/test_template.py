"""Whether a folder has a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.catalog.template import has_chat_template


@pytest.mark.parametrize(
    ("name", "content", "has"),
    [
        ("config.json", "{}", None),
        ("tokenizer_config.json", "{}", False),
        ("tokenizer_config.json", '{"chat_template": ""}', False),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "x"}]}', True),
        ("tokenizer_config.json", "{", None),
        ("tokenizer_config.json", "[]", None),
        ("chat_template.jinja", "{{ messages }}", True),
        ("chat_template.json", "{}", True),
    ],
)
def test_what_a_folder_tells(tmp_path: Path, name: str, content: str, has: bool | None) -> None:
    (tmp_path / name).write_text(content)
    assert has_chat_template(tmp_path) is has
