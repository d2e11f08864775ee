"""LangChain's ``ChatOpenAI``: chat, stream, stop, two adapters at once, an error."""

from __future__ import annotations

import asyncio
import json
import os

from langchain_openai import ChatOpenAI

base, one, two = os.environ["MODELS"].split(",")


def model(name: str) -> ChatOpenAI:
    """A chat model of the server."""
    return ChatOpenAI(
        model=name,
        base_url=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        temperature=0,
        max_tokens=12,
        max_retries=0,
    )


question = [("human", "Where is my parcel?")]
answer = model(one).invoke(question)
text = str(answer.content)


async def both() -> list[str]:
    """Two adapters at once."""
    found = await asyncio.gather(*(model(name).ainvoke(question) for name in (one, two)))
    return [str(each.content) for each in found]


try:
    model("nobody").invoke(question)
    error = None
except Exception as failure:
    error = type(failure).__name__
print(
    json.dumps(
        {
            "text": text,
            "usage": answer.usage_metadata["total_tokens"] > 0,
            "streamed": "".join(str(chunk.content) for chunk in model(one).stream(question)),
            "stopped": str(model(one).invoke(question, stop=[text[3:5]]).content),
            "both": asyncio.run(both()),
            "error": error,
        }
    )
)
