"""``inference_model.json``: by it Foundry Local and AI Toolkit for VS Code find a model folder and word its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.export.chat_turns import turns_of
from tunesmith.runs.atomic import write_json


def write_inference_model(folder: Path, name: str, tokenizer: Any) -> None:
    """Write the file; the prompt is null where the chat template cannot be said in one text.

    Raises:
        OutputError: The folder cannot be written.
    """
    turns = turns_of(tokenizer)
    template = None
    if turns is not None:
        # The text becomes tokens in ONNX Runtime GenAI, whose tokenizer puts the first token there itself if it does.
        prompt = turns.render([{"role": "user", "content": "{Content}"}]).removeprefix(turns.first)
        template = {"assistant": "{Content}", "prompt": prompt}
    write_json(folder / "inference_model.json", {"Name": name, "PromptTemplate": template})
