"""Vectors and labels, refusals, models and metrics, through a real process."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import transformers
from openai_paths import QUESTION, Place, chat
from prometheus_client.parser import text_string_to_metric_families

from tunesmith.jobs.inference_process import InferenceProcess

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_vectors_are_the_mean_of_the_encoders_last_states(http: httpx.Client, paths: Place) -> None:
    texts = ["Where is my parcel?", "A label", "The parcel has not arrived and the customer asks where it is."]
    tokenizer = transformers.AutoTokenizer.from_pretrained(paths.encoder)
    model = transformers.AutoModel.from_pretrained(paths.encoder).eval()
    wanted = []
    for text in texts:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(dim=0)
        wanted.append((mean / mean.norm()).numpy())
    answer = http.post("/v1/embeddings", json={"model": "vectors", "input": texts}).json()
    found = np.array([one["embedding"] for one in answer["data"]])
    np.testing.assert_allclose(found, np.array(wanted), atol=1e-5)
    tokens = [tokenizer(text)["input_ids"] for text in texts]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == sum(map(len, tokens))
    coded = http.post(
        "/v1/embeddings", json={"model": "vectors", "input": tokens, "encoding_format": "base64", "dimensions": 32}
    ).json()
    numbers = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in coded["data"]]
    np.testing.assert_allclose(np.array(numbers), np.array(wanted), atol=1e-5)
    single = http.post("/v1/embeddings", json={"model": "vectors", "input": texts[0]}).json()
    np.testing.assert_allclose(single["data"][0]["embedding"], wanted[0], atol=1e-5)


REFUSALS = [
    ("chat/completions", {"model": "head"}, 400, "model_classifies", "model"),
    ("chat/completions", {"model": "vectors"}, 400, "model_embeds", "model"),
    ("chat/completions", {"model": "nothing"}, 404, "model_not_found", "model"),
    ("chat/completions", {"model": "short", "max_tokens": 60}, 400, "context_length_exceeded", "messages"),
    ("chat/completions", {"logit_bias": {"5": 101}}, 400, "invalid_value", "logit_bias.5"),
    (
        "chat/completions",
        {
            "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nope"}}}],
        },
        400,
        "unsupported_schema",
        "tools",
    ),
    (
        "chat/completions",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        400,
        "unsupported_schema",
        "response_format",
    ),
    ("completions", {"model": "short", "prompt": [5] * 50}, 400, "context_length_exceeded", "prompt"),
    ("completions", {"prompt": [400]}, 400, "invalid_value", "prompt"),
    ("completions", {"prompt": []}, 400, "invalid_value", "prompt"),
    ("completions", {"prompt": "x", "best_of": 3}, 400, "unsupported_parameter", "best_of"),
    ("completions", {"prompt": "x", "echo": True, "logprobs": 1}, 400, "unsupported_parameter", "echo"),
    ("completions", {"prompt": "x", "suffix": "y"}, 400, "unsupported_parameter", "suffix"),
    ("embeddings", {"model": "org/base", "input": "x"}, 400, "model_writes", "model"),
    ("embeddings", {"model": "vectors", "input": ["a", ""]}, 400, "empty_input", "input.1"),
    ("embeddings", {"model": "vectors", "input": []}, 400, "invalid_value", "input"),
    ("embeddings", {"model": "vectors", "input": [[5] * 513]}, 400, "context_length_exceeded", "input.0"),
    ("embeddings", {"model": "vectors", "input": "x", "dimensions": 8}, 400, "invalid_value", "dimensions"),
    ("classify", {"model": "org/base", "input": ["x"]}, 400, "model_writes", "model"),
]


@pytest.mark.parametrize(("path", "change", "status", "code", "param"), REFUSALS)
def test_refusals_name_the_field(
    http: httpx.Client, path: str, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    plain = {"chat/completions": {"model": "org/base", "messages": QUESTION}, "completions": {"model": "org/base"}}
    answer = http.post(f"/v1/{path}", json={**plain.get(path, {}), **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]


def test_bodies_that_are_no_json_are_told_so(http: httpx.Client) -> None:
    for content in (b"{", b'{"model": "org/base", "messages": \xff}', b"[]", b""):
        answer = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", None), content


def test_models_health_and_metrics(http: httpx.Client, paths_process: InferenceProcess) -> None:
    assert paths_process.names == ("org/base", "tuned", "short", "vectors", "head")
    assert http.get("/v1/models/org/base").json()["id"] == "org/base"
    assert http.get("/v1/models/org").status_code == 404
    assert httpx.get(f"{paths_process.base_url}/ready", trust_env=False).json() == {"status": "ready"}
    assert httpx.get(f"{paths_process.base_url}/metrics", trust_env=False).status_code == 401
    before = metrics(http)
    chat(http, model="tuned", n=2)
    after = metrics(http)
    changed = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert changed["tunesmith_requests_total", "answered", "tuned"] == 1
    assert changed["tunesmith_completion_tokens_total", "tuned"] == 24
    assert after["tunesmith_models_loaded",] >= 2
    assert after["tunesmith_requests_running",] == 0


def metrics(http: httpx.Client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_a_head_answers_beside_writers(http: httpx.Client) -> None:
    answer = http.post("/v1/classify", json={"model": "head", "input": ["Where is my parcel?"]}).json()
    assert answer["data"][0]["label"] in {"down", "up"}
    assert http.post("/v1/classify", json={"model": "head", "input": []}).status_code == 400
