"""A small prompt flow: a prompty over an OpenAI connection, chat and stream, two adapters, an error."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from promptflow.core import OpenAIModelConfiguration, Prompty

base, one, two = os.environ["MODELS"].split(",")
FLOW = """---
name: Parcel
model:
  api: chat
  parameters:
    temperature: 0
    max_tokens: 12
inputs:
  question:
    type: string
---
user:
{{question}}
"""


def flow(name: str, folder: str, **parameters: object) -> Prompty:
    """The flow over one model of the server."""
    path = Path(folder) / "parcel.prompty"
    path.write_text(FLOW, encoding="utf-8")
    connection = OpenAIModelConfiguration(model=name, base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])
    return Prompty.load(source=path, model={"configuration": connection, "parameters": parameters})


with tempfile.TemporaryDirectory() as scratch:
    question = "Where is my parcel?"
    text = flow(one, scratch)(question=question)
    try:
        flow("nobody", scratch)(question=question)
        error = None
    except Exception as failure:
        error = type(failure).__name__
    print(
        json.dumps(
            {
                "text": text,
                "streamed": "".join(flow(one, scratch, stream=True)(question=question)),
                "stopped": flow(one, scratch, stop=[text[3:5]])(question=question),
                "both": [flow(name, scratch)(question=question) for name in (one, two)],
                "error": error,
            }
        )
    )
