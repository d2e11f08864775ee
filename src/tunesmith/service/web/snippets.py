"""Programs that ask a deployment, ready to run; the key comes from an environment variable and is in none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

# What a model gives to those who ask it: words, labels, answers marked in a text, or vectors.
Does = Literal["writes", "labels", "answers", "embeds"]


@dataclass(frozen=True)
class Snippet:
    """A program: its heading, what has to be installed, and its text."""

    name: str
    needs: str | None
    text: str


def snippets(base_url: str, model: str, does: Does = "writes") -> list[Snippet]:
    """Programs that ask a model.

    Args:
        base_url: What OpenAI's clients take, such as ``http://127.0.0.1:8321/v1``.
        model: A deployment or a model.
        does: What it gives.
    """
    # JSON's texts are texts of Python as well.
    url, name = json.dumps(base_url), json.dumps(model)
    asked = _ASKED[does]
    programs = {
        "writes": (_OPENAI, _LANGCHAIN, _SEMANTIC_KERNEL),
        "embeds": (_OPENAI_VECTORS, _LANGCHAIN_VECTORS),
    }.get(does, (_OPENAI_LABELS,))
    heads = (("OpenAI", "openai"), ("LangChain", "langchain-openai"), ("Semantic Kernel", "semantic-kernel"))
    made = [
        Snippet(head, f"pip install {package}", text.format(url=url, name=name, input=json.dumps(asked.get("input"))))
        for (head, package), text in zip(heads, programs, strict=False)
    ]
    return [_curl(f"{base_url}{_PATHS[does]}", {"model": model, **asked}), *made]


def _curl(address: str, body: dict[str, Any]) -> Snippet:
    # A quote would end the text of the shell.
    text, place = json.dumps(body).replace("'", "\\u0027"), address.replace("'", "%27")
    return Snippet(
        "curl",
        None,
        f"curl -s '{place}' \\\n"
        '  -H "Authorization: Bearer $TUNESMITH_API_KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d '{text}'\n",
    )


_PATHS = {"writes": "/chat/completions", "labels": "/classify", "answers": "/classify", "embeds": "/embeddings"}
_ASKED: dict[str, dict[str, Any]] = {
    "writes": {"messages": [{"role": "user", "content": "Hello"}]},
    "labels": {"input": ["Hello"]},
    "answers": {"input": [{"question": "Who says hello?", "context": "Anna says hello."}]},
    "embeds": {"input": ["Hello"]},
}


_OPENAI = """\
import os

from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["TUNESMITH_API_KEY"])
answer = client.chat.completions.create(
    model={name},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)
"""
_LANGCHAIN = """\
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url={url},
    api_key=os.environ["TUNESMITH_API_KEY"],
    model={name},
)
print(model.invoke("Hello").content)
"""
_SEMANTIC_KERNEL = """\
import asyncio
import os

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory

client = AsyncOpenAI(base_url={url}, api_key=os.environ["TUNESMITH_API_KEY"])
service = OpenAIChatCompletion(ai_model_id={name}, async_client=client)


async def main() -> None:
    history = ChatHistory()
    history.add_user_message("Hello")
    answer = await service.get_chat_message_content(history, OpenAIChatPromptExecutionSettings())
    print(answer)


asyncio.run(main())
"""
_OPENAI_LABELS = """\
import os

from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["TUNESMITH_API_KEY"])
# A path that OpenAI does not have: the client carries it all the same.
answer = client.post("/classify", body={{"model": {name}, "input": {input}}}, cast_to=object)
print(answer)
"""
_OPENAI_VECTORS = """\
import os

from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["TUNESMITH_API_KEY"])
answer = client.embeddings.create(model={name}, input={input})
print(answer.data[0].embedding)
"""
_LANGCHAIN_VECTORS = """\
import os

from langchain_openai import OpenAIEmbeddings

# Texts are sent as they are; the tokenizer that LangChain would cut them with is OpenAI's.
model = OpenAIEmbeddings(
    base_url={url},
    api_key=os.environ["TUNESMITH_API_KEY"],
    model={name},
    check_embedding_ctx_length=False,
)
print(model.embed_query("Hello"))
"""
