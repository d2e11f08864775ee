"""The official package against a server: chat, stream, stop, errors, two adapters at once, calls, a schema."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])
base, one, two = os.environ["MODELS"].split(",")
asked = [{"role": "user", "content": "Where is my parcel?"}]
plain = {"messages": asked, "temperature": 0, "max_tokens": 12}

whole = client.chat.completions.create(model=one, **plain)
chunks = list(client.chat.completions.create(model=one, stream=True, stream_options={"include_usage": True}, **plain))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
text = whole.choices[0].message.content or ""
stopped = client.chat.completions.create(model=one, stop=[text[3:5]], **plain)
with ThreadPoolExecutor(2) as pool:
    both = list(pool.map(lambda name: client.chat.completions.create(model=name, **plain), [one, two]))
scored = client.chat.completions.create(model=one, logprobs=True, top_logprobs=2, n=2, **plain)
form = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        },
    },
}
kept = client.chat.completions.create(model=one, response_format=form, **{**plain, "max_tokens": 40})
tools = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["number"],
                "additionalProperties": False,
            },
        },
    }
]
called = client.chat.completions.create(
    model=one, tools=tools, tool_choice="required", **{**plain, "max_tokens": 200, "presence_penalty": 0.5}
)
errors = {}
for name, call in {
    "model": lambda: client.chat.completions.create(model="nobody", **plain),
    "key": lambda: client.with_options(api_key="wrong").chat.completions.create(model=one, **plain),
    "value": lambda: client.chat.completions.create(model=one, messages=asked, temperature=9),
}.items():
    try:
        call()
    except openai.APIStatusError as error:
        errors[name] = [type(error).__name__, error.status_code, error.code]
print(
    json.dumps(
        {
            "version": openai.__version__,
            "models": [model.id for model in client.models.list()],
            "model": client.models.retrieve(two).id,
            "text": text,
            "finish": whole.choices[0].finish_reason,
            "usage": whole.usage.total_tokens - whole.usage.prompt_tokens - whole.usage.completion_tokens,
            "streamed": streamed,
            "stream_usage": chunks[-1].usage.completion_tokens == whole.usage.completion_tokens,
            "stopped": stopped.choices[0].message.content,
            "both": [answer.choices[0].message.content for answer in both],
            "logprobs": [len(token.top_logprobs) for token in scored.choices[1].logprobs.content][:1],
            "answers": len(scored.choices),
            "kept": json.loads(kept.choices[0].message.content),
            "called": [
                [call.function.name, json.loads(call.function.arguments)]
                for call in called.choices[0].message.tool_calls
            ],
            "call_finish": called.choices[0].finish_reason,
            "completion": client.completions.create(model=base, prompt="Dear", max_tokens=4, temperature=0)
            .choices[0]
            .text,
            "errors": errors,
        }
    )
)
