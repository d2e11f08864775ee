"""The inference process as its users see it: a real process, a real (tiny) model, two adapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import peft
import psutil
import pytest
import torch
import transformers
from tiny_models import tiny_causal_model, tiny_tokenizer

from tunesmith.errors import ModelError, UsageError, WorkerError
from tunesmith.generation import Decoding, generate
from tunesmith.jobs.inference_process import start_inference
from tunesmith.wire.serving import ServedModel

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CONTEXT = 200_000
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model that never ends a turn, with a context that no test can fill, and two adapters on it."""
    root = tmp_path_factory.mktemp("inference")
    tiny_tokenizer(root / "base")
    model = tiny_causal_model("llama", root / "base", max_position_embeddings=CONTEXT, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] = 0.0
    model.save_pretrained(root / "base")
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    tuned = peft.get_peft_model(model, config, adapter_name="one")
    tuned.add_adapter("two", config)
    tuned.save_pretrained(root)
    return root / "base", [root / "one", root / "two"]


@pytest.fixture(scope="module")
def process(folders):
    base, adapters = folders
    names = ["tuned", "ft:tiny:second.v2"]
    models = [ServedModel("base", base), *(ServedModel(*one) for one in zip(names, [base] * 2, adapters, strict=True))]
    with start_inference(models) as running:
        yield running


@pytest.fixture
def http(process):
    headers = {"Authorization": f"Bearer {process.token}"}
    with httpx.Client(base_url=process.base_url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def expected_text(folders, adapter: int | None, tokens: int) -> str:
    base, adapters = folders
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapters[adapter])
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    return generate(model, tokenizer, [prompt], Decoding(max_new_tokens=tokens), tokens_per_batch=1000)[0].text


def chunks(http, **body):
    with http.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True, **body}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_base_and_adapters_are_served_from_one_copy(process, folders):
    assert process.names == ("base", "tuned", "ft:tiny:second.v2")
    texts = [process.client.chat(QUESTION, name, **GREEDY) for name in process.names]
    assert texts == [expected_text(folders, adapter, 12) for adapter in (None, 0, 1)]
    assert len(set(texts)) == 3


def test_answer_has_openais_shape(http):
    answer = http.post(
        "/v1/chat/completions", json={"model": "tuned", "messages": QUESTION, "user": "me", **GREEDY}
    ).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in {"stop", "length"}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 12
    models = http.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["base", "tuned", "ft:tiny:second.v2"]


def test_stream_has_openais_shape_and_the_same_text(http, process):
    got = chunks(http, model="tuned", stream_options={"include_usage": True}, **GREEDY)
    assert got[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in got}) == 1
    *pieces, last, usage = got[1:]
    assert all(piece["usage"] is None for piece in pieces)
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == process.client.chat(QUESTION, "tuned", **GREEDY)
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] in {"stop", "length"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] <= 12
    assert "".join(process.client.stream(QUESTION, "tuned", **GREEDY)) == text


def test_stop_limit_and_seed_are_obeyed(process):
    whole = process.client.chat(QUESTION, "base", temperature=0, max_completion_tokens=12, max_tokens=1)
    stop = whole[4:6]
    assert process.client.chat(QUESTION, "base", stop=[stop, "never said"], **GREEDY) == whole[: whole.index(stop)]
    sampled = [process.client.chat(QUESTION, "base", seed=seed, max_tokens=12) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_many_at_once_get_their_own_answers(process):
    names = [process.names[at % 3] for at in range(9)]
    questions = [[{"role": "user", "content": f"Question {at // 3} {'?' * at}"}] for at in range(9)]
    alone = [process.client.chat(q, n, **GREEDY) for q, n in zip(questions, names, strict=True)]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda q, n: process.client.chat(q, n, **GREEDY), questions, names))
    assert together == alone


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \u00e4"}])
def test_without_the_token_nothing_but_health(process, header):
    raw = {name: value.encode() for name, value in header.items()}
    for path in ("/v1/models", "/v1/chat/completions"):
        answer = httpx.post(process.base_url + path, headers=raw, content=b"{", trust_env=False)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(process.base_url + "/health", trust_env=False).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"temperature": 5}, 400, "temperature", "invalid_value"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
        ({"n": 99}, 400, "n", "invalid_value"),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function", "invalid_value"),
        ({"audio": {"voice": "x"}}, 400, "audio", "unsupported_parameter"),
        ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "invalid_value"),
        ({"logit_bias": {"99999999": 1}}, 400, "logit_bias", "invalid_value"),
        ({"model": "unknown"}, 404, "model", "model_not_found"),
        ({"max_tokens": CONTEXT}, 400, "messages", "context_length_exceeded"),
    ],
)
def test_refusals_in_openais_shape(http, change, status, param, code):
    answer = http.post("/v1/chat/completions", json={"model": "base", "messages": QUESTION, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    if code == "context_length_exceeded":
        assert str(CONTEXT) in error["message"]


def test_bad_json_and_unknown_paths_in_openais_shape(http):
    assert http.post("/v1/chat/completions", content=b"{").json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/nothing").json()["error"]["message"]
    assert http.get("/v1/chat/completions").status_code == 405


def test_refusals_are_tunesmith_errors_for_the_client(process):
    with pytest.raises(ModelError) as unknown:
        process.client.chat(QUESTION, "unknown")
    assert unknown.value.code == "inference.model_not_found"
    with pytest.raises(UsageError):
        next(process.client.stream(QUESTION, "base", top_p=7))


def test_a_client_that_goes_away_frees_the_model(process, http):
    endless = {"temperature": 0, "max_tokens": 100_000, "stop": ["never said"]}
    running = process.client.stream(QUESTION, "base", **endless)
    assert next(running)
    running.close()
    started = time.monotonic()
    process.client.chat(QUESTION, "base", temperature=0, max_tokens=1)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={"model": "base", "messages": QUESTION, **endless}, timeout=0.5)
    process.client.chat(QUESTION, "base", temperature=0, max_tokens=1)
    # 100,000 tokens would take minutes.
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_stream_is_finished_before_the_process_ends(folders):
    base, _ = folders
    with start_inference([ServedModel("base", base)]) as running:
        assert running.names == ("base",)
        pieces = running.client.stream(QUESTION, "base", temperature=0, max_tokens=150)
        text = next(pieces)
        os.kill(running.pid, signal.SIGTERM)
        text += "".join(pieces)
        process = psutil.Process(running.pid)
        assert process.wait(30) == 0
    assert text == expected_text(folders, None, 150)


def test_the_process_ends_with_its_parent(folders):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tunesmith.jobs.inference_process import start_inference\n"
        "from tunesmith.wire.serving import ServedModel\n"
        "with start_inference([ServedModel('x', Path(sys.argv[1]))]) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(folders[0])], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_cannot_start_says_why(tmp_path):
    with pytest.raises(WorkerError) as caught, start_inference([ServedModel("base", tmp_path / "missing")]):
        pass
    assert "there is no such folder" in str(caught.value)
    assert str(tmp_path / "missing") in str(caught.value)
