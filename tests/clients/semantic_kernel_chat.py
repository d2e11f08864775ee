"""Semantic Kernel's OpenAI connector: chat, stream, stop, two adapters at once, an error."""

from __future__ import annotations

import asyncio
import json
import os

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory

base, one, two = os.environ["MODELS"].split(",")


def service(name: str) -> OpenAIChatCompletion:
    """A connector to one model of the server."""
    client = AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0)
    return OpenAIChatCompletion(ai_model_id=name, async_client=client)


def history() -> ChatHistory:
    """One question."""
    chat = ChatHistory()
    chat.add_user_message("Where is my parcel?")
    return chat


async def ask(name: str, **more: object) -> str:
    """One answer."""
    settings = OpenAIChatPromptExecutionSettings(temperature=0, max_tokens=12, **more)
    return str(await service(name).get_chat_message_content(history(), settings))


async def stream(name: str) -> str:
    """One answer in pieces."""
    settings = OpenAIChatPromptExecutionSettings(temperature=0, max_tokens=12)
    pieces = service(name).get_streaming_chat_message_content(history(), settings)
    return "".join([str(piece) async for piece in pieces])


async def main() -> None:
    """Everything, as one JSON object."""
    text = await ask(one)
    try:
        await ask("nobody")
        error = None
    except Exception as failure:
        error = type(failure).__name__
    found = {
        "text": text,
        "streamed": await stream(one),
        "stopped": await ask(one, stop=[text[3:5]]),
        "both": await asyncio.gather(ask(one), ask(two)),
        "error": error,
    }
    print(json.dumps(found))


asyncio.run(main())
