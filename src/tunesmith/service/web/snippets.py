"""Programs that ask a deployment, ready to run; the key comes from an environment variable and is in none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """A program: its heading, what has to be installed, and its text."""

    name: str
    needs: str | None
    text: str


def snippets(base_url: str, model: str) -> list[Snippet]:
    """Programs that ask a model.

    Args:
        base_url: What OpenAI's clients take, such as ``http://127.0.0.1:8321/v1``.
        model: A deployment or a model.
    """
    # JSON's texts are texts of Python as well; a quote would end the text of the shell.
    url, name = json.dumps(base_url), json.dumps(model)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).replace("'", "\\u0027")
    address = f"{base_url}/chat/completions".replace("'", "%27")
    return [
        Snippet(
            "curl",
            None,
            f"curl -s '{address}' \\\n"
            '  -H "Authorization: Bearer $TUNESMITH_API_KEY" \\\n'
            "  -H 'Content-Type: application/json' \\\n"
            f"  -d '{body}'\n",
        ),
        Snippet("OpenAI", "pip install openai", _OPENAI.format(url=url, name=name)),
        Snippet("LangChain", "pip install langchain-openai", _LANGCHAIN.format(url=url, name=name)),
        Snippet("Semantic Kernel", "pip install semantic-kernel", _SEMANTIC_KERNEL.format(url=url, name=name)),
    ]


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
