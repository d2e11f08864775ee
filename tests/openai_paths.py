"""One served place for the tests of OpenAI's paths, and short ways to ask it.

A base with an adapter, a second base with a short context, an encoder and a head, also as their libraries load them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import peft
import torch
import transformers
from served_models import make_served
from tiny_models import tiny_encoder_folder, tiny_model_folder

from tunesmith.generation import Decoding, generate
from tunesmith.wire.serving import ServedModel

QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
SHORT_CONTEXT = 64


class Place:
    """The process, and the models that it serves as their libraries load them."""

    def __init__(self, root: Path) -> None:
        base, tuned, _ = make_served(root / "writers")
        self.folder, self.adapter = base.folder, tuned.adapter
        short = tiny_model_folder("gemma2", root / "short", max_position_embeddings=SHORT_CONTEXT)
        self.encoder = tiny_encoder_folder(root / "encoder")
        head = transformers.AutoModelForSequenceClassification.from_pretrained(
            self.encoder, id2label={0: "down", 1: "up"}
        )
        head.save_pretrained(root / "head")
        transformers.AutoTokenizer.from_pretrained(self.encoder).save_pretrained(root / "head")
        self.served = [
            ServedModel("org/base", base.folder),
            ServedModel("tuned", base.folder, tuned.adapter),
            ServedModel("short", short),
            ServedModel("vectors", self.encoder),
            ServedModel("head", root / "head"),
        ]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base.folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(base.folder).eval()
        self.prompt = self.tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)

    @torch.inference_mode()
    def scores(self, tokens: Sequence[int]) -> torch.Tensor:
        """Transformers' scores of the token behind each of these."""
        return self.model(torch.tensor([tokens])).logits[0]

    def written(self, prompt: Sequence[int], count: int, *, tuned: bool = False, **decoding: Any) -> Any:
        """What the model alone writes."""
        model = self.model
        if tuned:
            model = transformers.AutoModelForCausalLM.from_pretrained(self.folder)
            model = peft.PeftModel.from_pretrained(model, self.adapter)
        settings = Decoding(max_new_tokens=count, **decoding)
        return generate(model, self.tokenizer, [list(prompt)], settings, tokens_per_batch=1000)[0]


def chat(http: httpx.Client, **body: Any) -> dict[str, Any]:
    plain = {"model": "org/base", "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    answer = http.post("/v1/chat/completions", json={**plain, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def complete(http: httpx.Client, prompt: Any, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"model": "org/base", "prompt": prompt, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(http: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"temperature": 0, **body, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def streamed(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    """The choices of a streamed conversation put together."""
    found: dict[int, dict[str, Any]] = {}
    plain = {"model": "org/base", "messages": QUESTION, "max_tokens": 12}
    for event in events(http, "/v1/chat/completions", **{**plain, **body}):
        for choice in event["choices"]:
            own = found.setdefault(choice["index"], {"text": "", "calls": [], "tokens": [], "reason": None})
            own["text"] += choice["delta"].get("content") or ""
            own["calls"] += choice["delta"].get("tool_calls") or []
            own["tokens"] += (choice["logprobs"] or {}).get("content") or []
            own["reason"] = choice["finish_reason"] or own["reason"]
    return [found[index] for index in sorted(found)]
