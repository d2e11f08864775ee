"""Questions behind solved examples: what the examples call is on offer too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chat_templates import styled_tokenizer

from tunesmith.evaluation.questions import HeldOut, ask_with_examples
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import prepare_task


def request(number: int, *tools: dict[str, Any]) -> dict[str, Any]:
    name = tools[0]["function"]["name"]
    return {"messages": [{"role": "user", "content": f"Request {number}"}], "tools": tools, "calls": [{name: {}}]}


def tool(name: str, told: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": told, "parameters": {"type": "object"}}}


def test_tools_of_examples_are_on_offer_once_before_those_of_the_question(tmp_path: Path) -> None:
    rows = [
        request(1, tool("stop", "of example"), tool("weather", "of example")),
        request(2, tool("stop", "of example")),
        request(3, tool("weather", "of question"), tool("time", "of question")),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inspection = inspect_source(path)
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("function_calling", inspection, examples)
    question = task.evaluation(examples[2])
    assert question is not None
    tokenizer = styled_tokenizer("qwen3")
    held_out = HeldOut((), ("rows:3",), (question,))
    asked, count = ask_with_examples(held_out, task, examples[:2], tokenizer, most_tokens=None)
    assert count == 2
    text = tokenizer.decode(asked.prompts[0])
    offered = [json.loads(line) for line in text.splitlines() if line.startswith('{"type": "function"')]
    assert [(one["function"]["name"], one["function"]["description"]) for one in offered] == [
        ("stop", "of example"),
        ("weather", "of question"),
        ("time", "of question"),
    ]
    # The row whose loss is measured offers the same.
    assert tokenizer.decode(asked.items[0][0].token_ids_T).startswith(text.removesuffix("<|im_start|>assistant\n"))
